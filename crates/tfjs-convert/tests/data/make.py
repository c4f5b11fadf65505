"""Makes the checkpoints of this folder: python make.py FOLDER (TensorFlow 2.19)."""
import os
import sys

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
NUMBERS = np.arange(600, dtype="float32").reshape(200, 3)


def piece(shape, dtype=None, partition_info=None):
    first = partition_info.var_offset[0]
    return tf.constant(NUMBERS[first:first + shape[0]])


for version, name in ((tf1.train.SaverDef.V2, "part_v2"), (tf1.train.SaverDef.V1, "part_v1")):
    v2 = version == tf1.train.SaverDef.V2
    with tf.Graph().as_default():
        emb = tf1.get_variable("emb", shape=[200, 3], initializer=piece,
                               partitioner=tf1.fixed_size_partitioner(3), use_resource=False)
        if v2:
            tf1.get_variable("s", initializer=tf.constant([b"hello", b"", b"x" * 200]), use_resource=False)
        b = tf1.get_variable("b", initializer=tf.constant([1.5, 2.5]), use_resource=False)
        tf1.get_variable("h", initializer=tf.constant([1.5, 2.5], tf.float16 if v2 else tf.float64), use_resource=False)
        tf1.get_variable("i", initializer=tf.constant([1, 2**40], tf.int64), use_resource=False)
        x = tf1.placeholder(tf.float32, [None, 2], name="x")
        tf.identity(tf.matmul(x, tf.convert_to_tensor(emb)[:2, :2]) + b, name="y")
        with tf1.Session() as session:
            session.run(tf1.global_variables_initializer())
            folder = os.path.join(sys.argv[1], name)
            os.makedirs(folder)
            tf1.train.Saver(write_version=version, sharded=True).save(session, folder + "/export")
            # [[1, 2]] gives [[7.5, 11.5]]
            print(session.run("y:0", {x: [[1, 2]]}))
