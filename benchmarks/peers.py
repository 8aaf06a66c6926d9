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

# As its documentation has it: one task for each write unit, on threads.
DASK = """
import os, shutil, sys, dask.array as da, numpy as np, zarr
source, dest = sys.argv[1:]
os.mkdir(dest)
shutil.copy(source + "/zarr.json", dest)
out = zarr.open_array(dest, mode="r+")
x = da.from_zarr(source, chunks=out.shards or out.chunks)
da.store(da.where(x > 0, x, np.float32(0.2) * x), out, lock=False)
"""

# Regions of about 32 MiB; reads and writes in flight, so that both processors have something to do; nothing is flushed to disk.
TENSORSTORE = """
import sys, numpy as np, tensorstore as ts
source, dest = sys.argv[1:]
context = ts.Context({"file_io_sync": False})
x = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": source}}, context=context).result()
out = ts.open(
    {"driver": "zarr3", "kvstore": {"driver": "file", "path": dest}, "create": True, "schema": x.schema.to_json()}, context=context
).result()
rows, columns = x.chunk_layout.write_chunk.shape
wide = max(1, (32 << 20) // (rows * columns * 4)) * columns
starts = [(i, j) for i in range(0, x.shape[0], rows) for j in range(0, x.shape[1], wide)]
regions = [np.s_[i : min(i + rows, x.shape[0]), j : min(j + wide, x.shape[1])] for i, j in starts]
reads, writes = [x[region].read() for region in regions[:3]], []
for n, region in enumerate(regions):
    values = reads.pop(0).result()
    if n + 3 < len(regions):
        reads.append(x[regions[n + 3]].read())
    writes.append(out[region].write(np.where(values > 0, values, np.float32(0.2) * values)))
    if len(writes) > 3:
        writes.pop(0).result()
for write in writes:
    write.result()
"""
