FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# Nobody in particular: owns no code, needs to write nowhere while the database is PostgreSQL.
RUN useradd --uid 10001 --no-log-init --no-create-home --shell /usr/sbin/nologin filmosphere

# Dependencies in a layer of their own: rebuilt when the requirements change, not with the code.
WORKDIR /app
COPY requirements/ requirements/
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
    -r requirements/runtime.txt

# .dockerignore lets the service in and nothing else: no sandbox, no tests, no .env.
COPY backend/ backend/
# Readable whatever the umask of the checkout; var/ holds the database where that is SQLite.
RUN chmod -R a+rX /app \
    && python -m compileall -q backend \
    && install --directory --owner=filmosphere --group=filmosphere var

WORKDIR /app/backend
USER 10001:10001

ENV HOST=0.0.0.0 \
    PORT=8000
EXPOSE 8000

# Asks under a name that DJANGO_ALLOWED_HOSTS admits; under localhost where that is empty or `*`.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", "\
import http.client, os; \
port = int(os.environ['PORT']); \
host = os.environ.get('DJANGO_ALLOWED_HOSTS', '').split(',')[0].strip(' .*') or 'localhost'; \
server = http.client.HTTPConnection('127.0.0.1', port, timeout=4); \
server.request('GET', '/healthz', headers={'Host': host}); \
raise SystemExit(server.getresponse().status != 200)"]

# As `make run` does. Without a shell in between, so that SIGTERM reaches the server.
CMD ["python", "-m", "filmosphere.serve"]
