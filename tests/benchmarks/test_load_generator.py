"""The load generator counts at least one answer, however slow the service and short the time."""

import socket
import threading

from benchmarks.load.generator import ask_for


def test_the_time_ends_no_sooner_than_the_first_answer() -> None:
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_late() -> None:
            with listener.accept()[0] as sock:
                sock.recv(1024)
                asked.wait(0.2)  # longer than the time of asking; nobody sets it
                sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                sock.recv(1024)

        service = threading.Thread(target=answer_late)
        service.start()
        load = ask_for(0.01, listener.getsockname()[1], b"GET / HTTP/1.1\r\n\r\n", connections=1)
        service.join()

    assert (load.answered, load.failed) == (1, 0)
    assert load.seconds > 0.1
