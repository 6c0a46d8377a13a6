"""The half of ``l2o bench`` that runs inside nerfstudio; ``l2o_splat.bench`` plans, reads and reports the runs."""
