"""`python -m service`: settings from the environment, a clear word when they do not do, SIGTERM ends it in order."""

import sys

import uvicorn

from helpers import settings
from service.app import Config, create_app
from service.model import ModelError

GRACE = 10  # seconds that open requests get after SIGTERM
MOST_OPEN = 256  # connections and requests at once; beyond, the answer is 503


def main() -> int:
    try:
        config = Config(
            model=settings.model_file(),
            addresses=tuple(settings.ignite()),
            threads=settings.service_threads(),
            max_age=settings.service_max_age(),
        )
        app = create_app(config)
        host, port = settings.service_host(), settings.service_port()
    except (settings.SettingError, ModelError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Listening on http://{host}:{port}, model {config.model.name}", flush=True)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_OPEN,
        timeout_graceful_shutdown=GRACE,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
