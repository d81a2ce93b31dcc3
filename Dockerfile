# `image-classifier serve` in a container, with the packages of requirements.lock and params.yaml.
#
#   docker build --tag image-classifier .
#
# The model is not in the image. It comes from an MLflow server that also serves the artifacts:
#
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:5001:5001 \
#     -e MLFLOW_TRACKING_URI=http://mlflow.example.com:5000 image-classifier
#
# or from the project's folder, mounted at the same path, because mlflow.db has absolute paths:
#
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:5001:5001 -v "$PWD:$PWD:ro" \
#     -e "MLFLOW_TRACKING_URI=sqlite:///$PWD/mlflow.db" image-classifier
#
# More arguments of `serve` may follow: image-classifier --workers 2

FROM python:3.11-slim AS build
WORKDIR /app
COPY requirements.lock ./
# 430 of the 1800 MB of TensorFlow are headers for C++
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --requirement requirements.lock \
    && rm -r /venv/lib/python3*/site-packages/tensorflow/include
COPY pyproject.toml README.md LICENSE ./
COPY src src
# only a link to /app/src: when the code changes, the large layer with /venv stays the same
RUN pip --python /venv/bin/python install --no-cache-dir --no-deps --editable .

FROM python:3.11-slim
WORKDIR /app
COPY --from=build /venv /venv
COPY params.yaml ./
COPY src src
# libraries keep caches in HOME, the only place where a read-only container can write
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true
# a number without a name, so that Kubernetes sees that it is not root; --user sets another one
USER 10001:10001
EXPOSE 5001
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client; c = http.client.HTTPConnection('127.0.0.1', 5001); c.request('GET', '/ping'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["image-classifier", "serve", "--host", "0.0.0.0"]
