"""STUB"""


def is_out_of_memory(e):
    return "out of memory" in str(e)


def advice(p, c):
    return "advice"
