# l2o_splat on the CPU. Not built yet: no Docker daemon was at hand when this was written.
#
#   docker build -t l2o_splat .
#   docker run --rm -it -v "$PWD:/work" -p 7007:7007 l2o_splat l2o demo
#
# Programs run as user 1000, who must be able to write to the folder that is mounted.
FROM python:3.11-slim AS build
# Some dependencies of nerfstudio have no wheels.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# First, so that the CUDA build of torch, some gigabytes, is not fetched.
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE /source/
COPY l2o_splat /source/l2o_splat
RUN pip install --no-cache-dir '/source[photos]'

FROM python:3.11-slim
# Libraries of open3d and OpenCV; ffmpeg writes videos.
RUN apt-get update && apt-get install -y --no-install-recommends ffmpeg libgl1 libglib2.0-0 libgomp1 libx11-6 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
RUN useradd --create-home --uid 1000 splat
USER splat
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /work
# nerfstudio's viewer.
EXPOSE 7007
CMD ["l2o", "check"]
