"""Binding: early, plain errors that name the address and the way out."""

import socket
import struct
import sys
from pathlib import Path

import pytest

from definable.server import bind, close_all


def test_port_0_picks_a_free_one():
    (sock,) = sockets = bind("127.0.0.1", 0)
    try:
        assert sock.getsockname()[1] > 0
        with socket.create_connection(sock.getsockname()):
            pass
    finally:
        close_all(sockets)


@pytest.mark.skipif(sys.platform != "linux", reason="tcp(7): TCP_INFO of a listening socket")
def test_1024_connections_may_wait_to_be_accepted():
    (sock,) = sockets = bind("127.0.0.1", 0)
    try:
        counts = struct.unpack("8x6I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32))
        backlog = counts[5]  # `tcpi_sacked`, see tcp_get_info() in the kernel's net/ipv4/tcp.c
        assert backlog == min(1024, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    finally:
        close_all(sockets)


def test_a_busy_port_is_an_oserror_that_names_it_and_the_way_out():
    (taken,) = sockets = bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    try:
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}: the port is in use.*port=0"):
            bind("127.0.0.1", port)
    finally:
        close_all(sockets)


def test_an_address_of_another_machine_is_named():
    with pytest.raises(OSError, match=r"192\.0\.2\.1:8000: this machine has no such address"):
        bind("192.0.2.1", 8000)


def test_an_unknown_host_is_named():
    with pytest.raises(OSError, match=r"no\.such\.host\.invalid:8000: no such host"):
        bind("no.such.host.invalid", 8000)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(port):
    with pytest.raises(ValueError, match=f"not {port}"):
        bind("127.0.0.1", port)


def test_localhost_listens_on_one_port_for_all_its_addresses():
    sockets = bind("localhost", 0)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
    finally:
        close_all(sockets)


def test_ipv6_addresses_work():
    for host in ("::1", "::"):
        (sock,) = sockets = bind(host, 0)
        try:
            assert sock.family == socket.AF_INET6
            with socket.create_connection(("::1", sock.getsockname()[1])):
                pass
        finally:
            close_all(sockets)


def test_the_ipv6_wildcard_listens_on_ipv4_too():
    (sock,) = sockets = bind("::", 0)
    try:
        with socket.create_connection(("127.0.0.1", sock.getsockname()[1])):
            pass
    finally:
        close_all(sockets)


def test_a_busy_ipv6_address_is_spelled_with_brackets():
    (taken,) = sockets = bind("::1", 0)
    port = taken.getsockname()[1]
    try:
        with pytest.raises(OSError, match=rf"\[::1\]:{port}"):
            bind("::1", port)
    finally:
        close_all(sockets)
