"""What asks a service without a pause, in a process of its own.

```
requests.py   what is asked: pure
generator.py  so many connections, each with one request after the other; the answers' number and times
wrk.py        the same by wrk (https://github.com/wg/wrk), which costs a fraction of it: used where it is installed
service.py    a service under load: requests/s, and the processor that each one took
```
"""

__all__: list[str] = []
