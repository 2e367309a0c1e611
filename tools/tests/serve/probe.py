# What servers of NBD offer, as libnbd and QEMU see it; as JSON in the file `found`, by server and feature.
#
# A feature is `true` when it was used and did what it is for, or a text that says what there is of it. Runs in nbdsh,
# where `nbd` is libnbd. SERVERS is a list of how each is started.
import errno, json, os, re, socket, struct, subprocess, time

SOCKET = os.path.abspath("probe.socket")
UNIX = "nbd+unix:///%s?socket=" + SOCKET
GIB = 1 << 30


class Running:
    """A server, from when clients can come until the end of the block."""

    def __init__(self, command, address):
        self.command, self.address = [part.replace("SOCKET", SOCKET) for part in command], address

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while True:
            family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
            try:
                with socket.socket(family) as client:
                    return client.connect(self.address)
            except OSError:
                assert self.process.poll() is None, "%s ended" % self.command
                assert time.monotonic() < until, "%s is not ready" % self.command
                time.sleep(0.01)

    def __exit__(self, *_):
        self.process.terminate()
        try:
            # Some wait for clients that stay.
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if os.path.exists(SOCKET):
            os.remove(SOCKET)


def connected(uri):
    handle = nbd.NBD()
    # The certificates of TLS.
    handle.set_uri_allow_local_file(True)
    handle.add_meta_context("base:allocation")
    handle.connect_uri(uri)
    return handle


def options(export):
    """A handle that has not chosen an export yet."""
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.set_export_name(export)
    handle.connect_unix(SOCKET)
    return handle


def names():
    found = []
    handle = options("")
    handle.opt_list(lambda name, description: found.append(name))
    handle.opt_abort()
    return found


def info_then_go(export):
    handle = options(export)
    handle.opt_info()
    size = handle.get_size()
    handle.opt_go()
    return handle.get_size() == size


def old_choice(export):
    """By hand: no client here asks for an export as those of before 2016 did."""
    name = export.encode()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(SOCKET)
        stream = client.makefile("rwb")
        magic, option, flags = struct.unpack(">QQH", stream.read(18))
        stream.write(struct.pack(">IQII", flags & 3, 0x49484156454F5054, 1, len(name)) + name)
        stream.flush()
        size, _ = struct.unpack(">QH", stream.read(10))
        if not flags & 2:
            stream.read(124)
        stream.write(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, 0, 512))
        stream.flush()
        magic, error, cookie = struct.unpack(">IIQ", stream.read(16))
        data = stream.read(512)
        stream.write(struct.pack(">IHHQQI", 0x25609513, 0, 2, 8, 0, 0))
        stream.flush()
        return (magic, error, cookie, len(data)) == (0x67446698, 0, 7, 512)


def contexts(export):
    found = []
    handle = options(export)
    handle.clear_meta_contexts() if hasattr(handle, "clear_meta_contexts") else None
    handle.opt_list_meta_context(found.append)
    handle.opt_abort()
    return ", ".join(sorted(name for name in found if name != "base:allocation")) or False


def extents(handle):
    found = []
    handle.block_status(1 << 20, 0, lambda context, offset, entries, error: found.append(context))
    return found == ["base:allocation"]


def not_fragmented(handle):
    pieces = []
    handle.pread_structured(
        1 << 20, 0, lambda data, offset, status, error: pieces.append(len(data)), nbd.CMD_FLAG_DF
    )
    return handle.can_df() and pieces == [1 << 20]


def does(can, call):
    """Whether it is offered, and done when it is asked for."""
    if not can:
        return False
    call()
    return True


def fast_zero(handle):
    """Zeros are fast, or refused at once."""
    if not handle.can_fast_zero():
        return False
    try:
        handle.zero(65536, 0, nbd.CMD_FLAG_FAST_ZERO)
    except nbd.Error as error:
        return error.errnum in (errno.ENOTSUP, errno.EOPNOTSUPP)
    return True


def sizes(handle):
    told = [handle.get_block_size(which) for which in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
    return "%d, %d, %d" % tuple(told) if any(told) else False


def qemu_trace(uri, *commands):
    arguments = [argument for command in commands for argument in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-T", "nbd_*", "-f", "raw", *arguments, uri], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def map_of(uri):
    done = subprocess.run(
        ["qemu-img", "map", "-f", "raw", "--output=json", uri], capture_output=True, text=True, check=True
    )
    return sum(piece["length"] for piece in json.loads(done.stdout)) == 6 * GIB


def seen_by_qemu(uri):
    trace = qemu_trace(uri, "write -z -u 0 64k", "map")
    long_zeros = qemu_trace(uri, "write -z -u -n 0 5G")
    flags = re.search(r"export flags (0x[0-9a-f]+)", trace)
    return {
        "extended headers": "(extended headers), type 1 (ack)" in trace,
        "extents of 64 bits": "block status (64-bit)" in trace,
        "block status of a payload": bool(flags and int(flags.group(1), 16) & (1 << 12)),
        "zeroes, 5 GiB in one request": "len = 5368709120" in long_zeros and "failed" not in long_zeros,
        "qemu-img map": map_of(uri),
    }


def tries(feature):
    """What `feature` answers; an error is a no."""
    try:
        return feature()
    except (nbd.Error, OSError, struct.error, subprocess.SubprocessError):
        return False


def seen_over_unix(server):
    export, uri = server["export"], UNIX % server["export"]
    with Running(server["unix"], SOCKET):
        h = connected(uri)
        fua = nbd.CMD_FLAG_FUA
        found = {
            "fixed newstyle": h.get_protocol() == "newstyle-fixed",
            "EXPORT_NAME": tries(lambda: old_choice(export)),
            "LIST": tries(lambda: len(names()) > 0),
            "several exports": tries(lambda: len(names()) > 1),
            "INFO, GO": tries(lambda: info_then_go(export)),
            "structured replies": h.get_structured_replies_negotiated(),
            "base:allocation": tries(lambda: extents(h)),
            "contexts of its own": tries(lambda: contexts(export)),
            "block sizes": tries(lambda: sizes(h)),
            "DF": tries(lambda: not_fragmented(h)),
            "FLUSH": tries(lambda: does(h.can_flush(), h.flush)),
            "FUA": tries(lambda: does(h.can_fua(), lambda: h.pwrite(b"x" * 512, 512, fua))),
            "TRIM": tries(lambda: does(h.can_trim(), lambda: h.trim(65536, 0))),
            "TRIM with FUA": tries(lambda: does(h.can_trim() and h.can_fua(), lambda: h.trim(65536, 0, fua))),
            "WRITE_ZEROES": tries(lambda: does(h.can_zero(), lambda: h.zero(65536, 0))),
            "WRITE_ZEROES with FUA": tries(lambda: does(h.can_zero() and h.can_fua(), lambda: h.zero(512, 0, fua))),
            "WRITE_ZEROES with NO_HOLE": tries(
                lambda: does(h.can_zero(), lambda: h.zero(512, 0, nbd.CMD_FLAG_NO_HOLE))
            ),
            "FAST_ZERO": tries(lambda: fast_zero(h)),
            "CACHE": tries(lambda: does(h.can_cache(), lambda: h.cache(65536, 0))),
            "MULTI_CONN": tries(h.can_multi_conn),
        }
        h.shutdown()
        found.update(tries(lambda: seen_by_qemu(uri)) or {})
    with Running(server["read-only"], SOCKET):
        found["read-only exports"] = tries(lambda: connected(uri).is_read_only())
    return found


def reads_over_tls(uri):
    h = connected(uri)
    is_read = h.get_tls_negotiated() and len(h.pread(512, 0)) == 512
    h.shutdown()
    return is_read


def seen_over_tls(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [argument.replace("PORT", str(port)) for argument in server["tls"]]
    folder = os.path.abspath("pki")
    uri = "nbds://localhost:%d/%s?tls-certificates=%s" % (port, server["export"], folder)
    with Running(command, ("127.0.0.1", port)):
        is_read = tries(lambda: reads_over_tls(uri))
        plain = tries(lambda: connected("nbd://localhost:%d/%s" % (port, server["export"])))
        return {
            "TCP, TLS by certificates": is_read,
            "who comes without TLS is refused": is_read and not plain,
        }


def seen_when_activated(server):
    def size():
        handle = nbd.NBD()
        handle.set_export_name(server["export"])
        handle.connect_systemd_socket_activation(server["activated"])
        return handle.get_size() > 0

    return {"socket activation": tries(size)}


def seen(server):
    return {**seen_over_unix(server), **seen_over_tls(server), **seen_when_activated(server)}


with open("found", "w") as file:
    json.dump({server["name"]: seen(server) for server in SERVERS}, file)
