"""Network namespaces, and the wire between them in userspace: what leaves one TUN arrives at another, or does not.

- a namespace has no name: it ends with the last process and descriptor that holds it, however this process ends
- each direction between two hosts has a `Line` of its own, which may be changed at any time, also from other threads
- one thread moves the packets; what happens to each is drawn from the seed
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
NET = "10.77.0"
SETUP = "link set lo up\nlink set t0 addrgenmode none\naddr add {address}/24 dev t0\nlink set t0 up\n"
QUEUE_BYTES = 128_000  # of a line with a rate; what does not fit is lost, as in a router


def why_not() -> str:
    """What is missing on this machine, "" for nothing."""
    if os.geteuid() != 0:
        return "the fault lab needs root, for network namespaces"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "the fault lab needs /dev/net/tun"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False, timeout=10)
    return "" if probe.returncode == 0 else "the fault lab needs to be allowed network namespaces"


@dataclass(frozen=True, slots=True)
class Line:
    """One direction. Chances are per packet; `burst` is the mean length of a run of losses; `rate` in bits/s, 0: none.

    `down`: everything is lost.
    """

    delay_s: float = 0.0005
    loss: float = 0.0
    burst: float = 1.0
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    rate: float = 0.0
    down: bool = False


@dataclass(slots=True)
class _Direction:
    line: Line
    random: Random
    losing: bool = False
    free_at: float = 0.0  # when the packets before this one have left, for lines with a rate
    last_at: float = 0.0


@dataclass(slots=True)
class Host:
    """One namespace. `fd` holds it; `tun` is the end of its wire."""

    name: str
    address: str
    fd: int = -1
    tun: int = -1

    def command(self, *words: str) -> list[str]:
        """`words`, to be run inside; give `pass_fds=(host.fd,)` with it."""
        return ["nsenter", f"--net=/proc/self/fd/{self.fd}", *words]

    def run(self, *words: str) -> None:
        """Run a short command inside. Raises CalledProcessError."""
        subprocess.run(self.command(*words), pass_fds=(self.fd,), check=True, timeout=10, capture_output=True)


def _enter(host: Host, failed: list[BaseException]) -> None:
    """In a thread of its own, which keeps the namespace only until it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
        host.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(host.tun, TUNSETIFF, struct.pack("16sH", b"t0", IFF_TUN | IFF_NO_PI))
        setup = SETUP.format(address=host.address).encode()
        subprocess.run(["ip", "-batch", "-"], input=setup, check=True, timeout=10, capture_output=True)
        host.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    except BaseException as exc:  # noqa: BLE001  it is raised again in the thread that waits
        failed.append(exc)


@dataclass(slots=True)
class Counts:
    """Packets of all lines; `lost` counts also what a line that is down took."""

    passed: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    corrupted: int = 0


@dataclass
class Wire:
    """The hosts and what is between them. A context manager."""

    seed: int
    counts: Counts = field(default_factory=Counts)
    hosts: dict[str, Host] = field(default_factory=dict)

    def __enter__(self) -> Wire:
        self._directions: dict[tuple[str, str], _Direction] = {}
        self._by_address: dict[bytes, Host] = {}
        self._late: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._random = Random(f"{self.seed}:wire")
        self._wake_r, self._wake_w = os.pipe()
        self._thread = threading.Thread(target=self._pump, name="wire", daemon=True)
        self._stop = False
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop = True
        os.write(self._wake_w, b".")
        self._thread.join(5)
        for host in self.hosts.values():
            os.close(host.tun)
            os.close(host.fd)
        os.close(self._wake_r)
        os.close(self._wake_w)

    def add(self, name: str) -> Host:
        """A new namespace with an address of its own."""
        host = Host(name, f"{NET}.{len(self.hosts) + 1}")
        failed: list[BaseException] = []
        thread = threading.Thread(target=_enter, args=(host, failed))
        thread.start()
        thread.join()
        if failed:
            if host.tun >= 0:
                os.close(host.tun)
            raise failed[0]
        self.hosts[name] = host
        self.also(host, host.address)
        os.write(self._wake_w, b".")
        return host

    def also(self, host: Host, address: str) -> None:
        """Packets for `address` go to `host`."""
        self._by_address[bytes(map(int, address.split(".")))] = host

    def line(self, a: str, b: str, line: Line, *, one_way: bool = False) -> None:
        """What is between `a` and `b` from now on."""
        self._direction(a, b).line = line
        if not one_way:
            self._direction(b, a).line = line

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Lose everything between the two."""
        self.line(a, b, Line(down=True), one_way=one_way)

    def heal(self, a: str, b: str) -> None:
        """A good line again."""
        self.line(a, b, Line())

    def _direction(self, a: str, b: str) -> _Direction:
        made = self._directions.get((a, b))
        if made is None:
            made = self._directions.setdefault((a, b), _Direction(Line(), Random(f"{self.seed}:{a}>{b}")))
        return made

    def _pump(self) -> None:
        while not self._stop:
            by_fd = {host.tun: host for host in list(self.hosts.values())}
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else 1.0
            ready, _, _ = select.select([self._wake_r, *by_fd], [], [], wait)
            for fd in ready:
                if fd == self._wake_r:
                    os.read(fd, 4096)
                else:
                    self._read(by_fd[fd])
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, _, tun, packet = heapq.heappop(self._late)
                with contextlib.suppress(OSError):  # its queue is full, or it is gone: lost, as packets are
                    os.write(tun, packet)

    def _read(self, source: Host) -> None:
        for _ in range(64):  # then the others have their turn
            try:
                packet = os.read(source.tun, 65_536)
            except OSError:
                return
            target = self._by_address.get(packet[16:20]) if packet[:1] and packet[0] >> 4 == 4 else None
            if target is not None:
                self._fate(self._direction(source.name, target.name), target, packet)

    def _fate(self, way: _Direction, target: Host, packet: bytes) -> None:
        line, draw, now = way.line, way.random.random, time.monotonic()
        if line.loss:
            # Two states: a run of losses ends with 1/burst, and begins so often that `loss` is the share of all.
            way.losing = draw() >= 1 / line.burst if way.losing else draw() < line.loss / (line.burst * (1 - line.loss))
        else:
            way.losing = False
        at = now + line.delay_s
        if line.rate:
            way.free_at = max(way.free_at, now) + len(packet) * 8 / line.rate
            at = way.free_at + line.delay_s
        if line.down or way.losing or (line.rate and (way.free_at - now) * line.rate / 8 > QUEUE_BYTES):
            self.counts.lost += 1
            return
        if line.corrupt and draw() < line.corrupt:
            packet = _flip(packet, way.random)
            self.counts.corrupted += 1
        if line.reorder and draw() < line.reorder:
            at += max(line.delay_s, 0.01) * draw()
            self.counts.reordered += 1
        else:
            at = way.last_at = max(at, way.last_at)
        self._push(at, target, packet)
        if line.duplicate and draw() < line.duplicate:
            self.counts.doubled += 1
            self._push(at + 0.002, target, packet)

    def _push(self, at: float, target: Host, packet: bytes) -> None:
        self.counts.passed += 1
        self._number += 1
        heapq.heappush(self._late, (at, self._number, target.tun, packet))


def _flip(packet: bytes, random: Random) -> bytes:
    """One bit of a UDP payload, with the checksum off as a faulty middlebox leaves it: the layers above must see it."""
    start = (packet[0] & 15) * 4
    if packet[9] != 17 or len(packet) <= start + 8:
        return packet
    changed = bytearray(packet)
    changed[random.randrange(start + 8, len(packet))] ^= 1 << random.randrange(8)
    changed[start + 6 : start + 8] = b"\0\0"  # "no checksum": else the kernel would drop it
    return bytes(changed)


def rss_kib(pid: int) -> int:
    """Memory of a process."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith("VmRSS"):
            return int(text.split()[1])
    return 0


def fds(pid: int) -> int:
    """Open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
