"""ONNX Runtime in this process, timed on request: each line `N` of input runs the model N times and
answers with one line, the times in nanoseconds as JSON.

Usage: in_process.py MODEL THREADS
"""
import json
import sys
import time

import numpy
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
random = numpy.random.default_rng(0)
feeds = {i.name: random.random(i.shape, dtype=numpy.float32) for i in session.get_inputs()}
for line in sys.stdin:
    times = []
    for _ in range(int(line)):
        start = time.perf_counter_ns()
        session.run(None, feeds)
        times.append(time.perf_counter_ns() - start)
    print(json.dumps(times), flush=True)
