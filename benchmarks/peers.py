"""What a user would write without leakycli, each as well as its package allows: scripts that take SOURCE and DEST."""

NUMPY = """
import sys, numpy as np
x = np.load(sys.argv[1])
np.save(sys.argv[2], np.where(x > 0, x, x.dtype.type(0.2) * x))
"""

NUMPY_NPZ = """
import sys, numpy as np
with np.load(sys.argv[1]) as source:
    results = {name: np.where(x > 0, x, x.dtype.type(0.2) * x) for name in source.files for x in [source[name]]}
np.savez_compressed(sys.argv[2], **results)
"""

TORCH = """
import sys, numpy as np, torch
x = np.load(sys.argv[1], mmap_mode="c")
out = np.lib.format.open_memmap(sys.argv[2], mode="w+", dtype=x.dtype, shape=x.shape)
step = 1 << 22
for i in range(0, x.size, step):
    out[i : i + step] = torch.nn.functional.leaky_relu(torch.from_numpy(x[i : i + step]), 0.2).numpy()
"""

# The floors: the source through the codecs (and checksums) and back, on as many threads as there are processors; nothing is computed.
CODECS_NPZ = """
import os, struct, sys, zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from isal import igzip_lib, isal_zlib

def deflated(piece):
    compressor = isal_zlib.compressobj(2, isal_zlib.DEFLATED, -15)
    isal_zlib.crc32(piece)
    return compressor.compress(piece) + compressor.flush(isal_zlib.Z_FULL_FLUSH)

with zipfile.ZipFile(sys.argv[1]) as source:
    (entry,) = source.infolist()
pool, waiting = ThreadPoolExecutor(os.cpu_count()), deque()
with open(sys.argv[1], "rb") as read, open(sys.argv[2], "wb") as write:
    read.seek(entry.header_offset)
    name, extra = struct.unpack("<26xHH", read.read(30))
    read.seek(name + extra, 1)
    inflater, piece = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE), []
    while not inflater.eof:
        chunk = read.read(1 << 18) if inflater.needs_input else b""
        piece.append(inflater.decompress(chunk, max_length=1 << 18))
        if sum(map(len, piece)) >= 1 << 21 or inflater.eof:
            whole, piece = b"".join(piece), []
            isal_zlib.crc32(whole)
            waiting.append(pool.submit(deflated, whole))
        while waiting and (len(waiting) > 8 or inflater.eof):
            write.write(waiting.popleft().result())
"""

CODECS_ZARR = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from numcodecs import blosc, zstd
source, dest = map(Path, sys.argv[1:])
codec = json.loads((source / "zarr.json").read_text())["codecs"][-1]
given = codec["configuration"]
blosc.use_threads = False
if codec["name"] == "zstd":
    codec = zstd.Zstd(given["level"])
else:
    codec = blosc.Blosc(given["cname"], given["clevel"], blosc.SHUFFLE, given["blocksize"], given["typesize"])

def work(path):
    written = dest / path.relative_to(source)
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_bytes(codec.encode(codec.decode(path.read_bytes())))

with ThreadPoolExecutor(os.cpu_count()) as pool:
    list(pool.map(work, (path for path in source.rglob("*") if path.is_file() and path.name != "zarr.json")))
"""

CODECS_SHARDS = """
import json, math, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import google_crc32c, numpy as np
from numcodecs import zstd
source, dest = map(Path, sys.argv[1:])
document = json.loads((source / "zarr.json").read_text())
(sharding,) = document["codecs"]
shard, inner = document["chunk_grid"]["configuration"]["chunk_shape"], sharding["configuration"]["chunk_shape"]
count = math.prod(a // b for a, b in zip(shard, inner))
codec = zstd.Zstd(sharding["configuration"]["codecs"][-1]["configuration"]["level"])

def work(path):
    data = memoryview(path.read_bytes())
    index, pieces, at = np.frombuffer(data[-16 * count - 4 : -4], "<u8").reshape(count, 2).copy(), [], 0
    google_crc32c.value(bytes(data[-16 * count - 4 : -4]))
    for entry in index:
        start, size = map(int, entry)
        if start == 2**64 - 1:  # not stored
            continue
        pieces.append(codec.encode(codec.decode(data[start : start + size])))
        entry[:] = at, len(pieces[-1])
        at += len(pieces[-1])
    pieces += [index.tobytes(), google_crc32c.value(index.tobytes()).to_bytes(4, "little")]
    written = dest / path.relative_to(source)
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_bytes(b"".join(pieces))

with ThreadPoolExecutor(os.cpu_count()) as pool:
    list(pool.map(work, (path for path in source.rglob("*") if path.is_file() and path.name != "zarr.json")))
"""

# One task for each write unit, on threads; no temporary beyond the product.
DASK = """
import os, shutil, sys, dask.array as da, numpy as np, zarr
source, dest = sys.argv[1:]
os.mkdir(dest)
shutil.copy(source + "/zarr.json", dest)
out = zarr.open_array(dest, mode="r+")
x = da.from_zarr(source, chunks=out.shards or out.chunks)

def leaky(x):
    y = x * np.float32(0.2)
    return np.maximum(x, y, out=y)

da.store(x.map_blocks(leaky, dtype=x.dtype), out, lock=False)
"""

# A request for each write unit, four reads and four writes in flight; nothing is flushed to disk.
TENSORSTORE = """
import itertools, sys, numpy as np, tensorstore as ts
from collections import deque
source, dest = sys.argv[1:]
context = ts.Context({"file_io_sync": False})
x = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": source}}, context=context, read=True).result()
out = ts.open(
    {"driver": "zarr3", "kvstore": {"driver": "file", "path": dest}, "create": True, "schema": x.schema.to_json()}, context=context
).result()
unit = x.chunk_layout.write_chunk.shape
starts = itertools.product(*(range(0, n, k) for n, k in zip(x.shape, unit)))
regions = iter([tuple(slice(i, min(i + k, n)) for i, k, n in zip(at, unit, x.shape)) for at in starts])
reads, writes = deque((region, x[region].read()) for region in itertools.islice(regions, 4)), deque()
while reads:
    region, read = reads.popleft()
    values = read.result()
    reads.extend((following, x[following].read()) for following in itertools.islice(regions, 1))
    product = values * np.float32(0.2)
    writes.append(out[region].write(np.maximum(values, product, out=product)))
    if len(writes) > 4:
        writes.popleft().result()
for write in writes:
    write.result()
"""
