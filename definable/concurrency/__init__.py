"""The ground floor: the event loop, worker threads, calls of user code, time.

Running user code so that what it raises and what it leaves behind stay its own (`call`, `isolation`), waiting
between attempts (`backoff`), the clock. It knows no agent, model, server or store; every
other package calls it.
"""
