"""Writes odd_attrs.{pb,json} and tensors.json: what TensorFlow 2.19 and protobuf's MessageToDict say.

    python make.py          # in this directory; needs tensorflow==2.19
"""
import base64
import json

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow.core.framework import graph_pb2, tensor_pb2, types_pb2

# --- a graph with every kind of attribute, many at their default -----------------------------------------
g = graph_pb2.GraphDef()
n = g.node.add(name="a/b", op="Odd", input=["x", "y:1", "^z"], device="/device:CPU:0")
for key, value in dict(zero=0.0, fifth=0.2, nan=float("nan"), inf=float("inf"), ninf=float("-inf"),
                       tiny=1e-5, sub=1e-45, max=3.4028235e38, big=16777216.0, third=1 / 3).items():
    n.attr["f_" + key].f = value
for key, value in dict(zero=0, big=2**63 - 1, low=-(2**63)).items():
    n.attr["i_" + key].i = value
n.attr["b_false"].b = False
n.attr["b_true"].b = True
n.attr["s_empty"].s = b""
n.attr["s_text"].s = b"NHWC"
n.attr["s_bytes"].s = bytes(range(250, 256)) + b"\0\x7f"
n.attr["type"].type = types_pb2.DT_FLOAT
n.attr["type_ref"].type = types_pb2.DT_FLOAT_REF
n.attr["type_invalid"].type = 0
n.attr["shape_scalar"].shape.SetInParent()
n.attr["shape_unknown"].shape.unknown_rank = True
for size in (0, -1, 3, -5):
    n.attr["shape"].shape.dim.add(size=size)
n.attr["shape"].shape.dim.add(size=2, name="é")
n.attr["list_empty"].list.SetInParent()
n.attr["list_s"].list.s.extend([b"BiasAdd", b"", b"Relu"])
n.attr["list_i"].list.i.extend([1, 0, -1])
n.attr["list_f"].list.f.extend([0.5, float("nan"), 0.1])
n.attr["list_b"].list.b.extend([True, False])
n.attr["list_type"].list.type.extend([types_pb2.DT_INT64, 0])
n.attr["list_shape"].list.shape.add().dim.add(size=0)
n.attr["list_shape"].list.shape.add()
n.attr["list_func"].list.func.add(name="f").attr["T"].type = types_pb2.DT_HALF
n.attr["func"].func.name = "body"
n.attr["func_empty"].func.SetInParent()
n.attr["placeholder"].placeholder = "T"
n.attr["tensor"].tensor.CopyFrom(tf.make_tensor_proto([[1.5, -2.0]]))
n.attr["tensor_scalar"].tensor.CopyFrom(tf.make_tensor_proto(3.25, dtype=tf.float64))
n.attr["tensor_str"].tensor.CopyFrom(tf.make_tensor_proto([b"a", b"\xff"]))
g.node.add(name="plain", op="NoOp")
f = g.library.function.add()
f.signature.name = "body"
f.signature.is_stateful = True
arg = f.signature.input_arg.add(name="i", type=types_pb2.DT_INT32, description="an argument")
f.signature.input_arg.add(name="t", type_attr="T", number_attr="N")
f.signature.output_arg.add(name="o", type_list_attr="Ts", is_ref=True)
f.signature.control_output.append("c")
attr = f.signature.attr.add(name="T", type="type", has_minimum=True, minimum=2)
attr.default_value.type = types_pb2.DT_FLOAT
attr.allowed_values.list.type.extend([types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE])
f.node_def.add(name="n", op="Identity", input=["i"]).attr["T"].type = types_pb2.DT_INT32
f.ret["o"] = "n:output:0"
f.control_ret["c"] = "n"
f.attr["_x"].s = b"y"
f.arg_attr[0].attr["_user_specified_name"].s = b"i"
f.resource_arg_unique_id[1] = 7
g.library.gradient.add(function_name="f", gradient_func="g")
g.versions.producer = 2129
g.versions.bad_consumers.extend([1, 2])
open("odd_attrs.pb", "wb").write(g.SerializeToString(deterministic=True))


def sort(value, key=None):
    """Entries of protobuf maps have no order of their own."""
    if isinstance(value, dict):
        items = value.items()
        if key in ("attr", "ret", "controlRet", "argAttr", "resourceArgUniqueId"):
            items = sorted(items)
        return {k: sort(v, k) for k, v in items}
    return [sort(v) for v in value] if isinstance(value, list) else value


open("odd_attrs.json", "w").write(json.dumps(sort(MessageToDict(g))))

# --- constants -------------------------------------------------------------------------------------------
P = tensor_pb2.TensorProto
cases = []


def case(proto):
    values = tf.io.parse_tensor(proto.SerializeToString(), proto.dtype).numpy()
    values = np.array(values, dtype=object) if isinstance(values, bytes) else values
    if values.dtype == object:
        flat = [base64.b64encode(v).decode() for v in values.ravel()]
    elif np.iscomplexobj(values):
        flat = [[repr(float(v.real)), repr(float(v.imag))] for v in values.ravel()]
    elif values.dtype == bool:
        flat = [repr(bool(v)).lower() for v in values.ravel()]
    elif values.dtype.kind in "iu":
        flat = [repr(int(v)) for v in values.ravel()]
    else:
        flat = [repr(float(v)) for v in values.ravel()]
    cases.append(dict(proto=base64.b64encode(proto.SerializeToString()).decode(),
                      dtype=types_pb2.DataType.Name(proto.dtype), shape=list(values.shape), values=flat))


for t in ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32",
          "int64", "uint64", "complex64", "complex128", "bool", "string"]:
    if t == "string":
        values = [[b"a", b""], [b"\xff\x00", "é".encode()]]
    elif t == "bool":
        values = [[True, False], [False, True]]
    elif t.startswith("complex"):
        values = [[1 + 2j, 0], [-1.5j, 3]]
    elif t.startswith("u"):
        values = [[1, 0], [200, 3]]
    else:
        values = [[1, 0], [-100, 3]]
    content = tf.make_tensor_proto(values, dtype=t)
    case(content)
    typed = P(dtype=content.dtype, tensor_shape=content.tensor_shape)
    field, items = {
        "float32": ("float_val", [1.5, -2]), "float64": ("double_val", [0.1, -2]),
        "float16": ("half_val", [0x3C00, 0xC000]), "bfloat16": ("half_val", [0x3F80, 0xC000]),
        "int8": ("int_val", [-1, 5]), "uint8": ("int_val", [255, 5]), "int16": ("int_val", [-300, 5]),
        "uint16": ("int_val", [65535, 5]), "int32": ("int_val", [-7, 5]), "uint32": ("uint32_val", [2**32 - 1, 5]),
        "int64": ("int64_val", [-(2**63), 5]), "uint64": ("uint64_val", [2**64 - 1, 5]),
        "complex64": ("scomplex_val", [1.5, 2, 3, -4]), "complex128": ("dcomplex_val", [0.1, 2, 3, -4]),
        "bool": ("bool_val", [True, False]), "string": ("string_val", [b"first", b"last"]),
    }[t]
    getattr(typed, field).extend(items)
    case(typed)  # two values for four elements: the last is repeated
    case(P(dtype=content.dtype, tensor_shape=content.tensor_shape))  # none at all: zeros
    scalar = P(dtype=content.dtype)
    getattr(scalar, field).extend(items[:2] if t.startswith("complex") else items[:1])
    scalar.tensor_shape.SetInParent()
    case(scalar)
json.dump(cases, open("tensors.json", "w"), indent=0)
print(len(cases), "constants")
