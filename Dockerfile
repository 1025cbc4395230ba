# `depthwise serve` on a CPU; docs/serving.md says how it is built and run.
#
#   PYTHON_IMAGE   of both stages
#   TORCH_INDEX    the index of torch and torchvision; without it pip's default, whose torch brings the libraries of CUDA

ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/depthwise
ENV PATH=/opt/depthwise/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
ARG TORCH_INDEX
RUN python -c "import tomllib; needs = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; print(*(need for need in needs if need.startswith(('torch>', 'torchvision>'))), sep='\n')" > torch.txt \
    && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r torch.txt
COPY native native
COPY src src
# The wheel is built without the kernels where they do not compile: then this fails.
RUN pip wheel --no-deps --wheel-dir /wheels . \
    && pip install "$(echo /wheels/*.whl)[serve]" \
    && cd / && python -c "from depthwise import native; native.use('portable')"

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin depthwise
COPY --from=build /opt/depthwise /opt/depthwise
# Of what is written, traces of networks alone, and it goes on without them.
ENV PATH=/opt/depthwise/bin:$PATH PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/tmp/cache
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/v2/health/live'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["depthwise", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/models"]
