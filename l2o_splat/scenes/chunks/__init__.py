"""Chunks: the files in which pixelSplat and its successors keep posed video frames (RealEstate10K, DL3DV).

:mod:`~l2o_splat.scenes.chunks.folder` reads a folder of them, :mod:`~l2o_splat.scenes.chunks.view_index` the files
that fix the views of an evaluation, :mod:`~l2o_splat.scenes.chunks.view_samplers` draws views, and
:mod:`~l2o_splat.scenes.chunks.writer` writes chunks.
"""
