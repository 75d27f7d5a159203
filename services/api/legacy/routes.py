"""Every old route: method, path, the scope that it needs, what answers it."""

from __future__ import annotations

from services.api.legacy.face import Handler
from services.api.legacy.models import LegacyModels
from services.api.legacy.statistics import LegacyStatistics
from services.api.legacy.tasks import LegacyTasks


def old_routes(
    models: LegacyModels, tasks: LegacyTasks, statistics: LegacyStatistics
) -> dict[tuple[str, str], tuple[str, Handler]]:
    """The table of the old routes."""
    return {
        ("POST", "/model/createModel"): ("admin", models.create),
        ("PUT", "/model/updateModel"): ("admin", models.update),
        ("POST", "/model/updateModel"): ("admin", models.update),
        ("DELETE", "/model/deleteModel"): ("admin", models.delete),
        ("GET", "/model/getModel"): ("read", models.get),
        ("POST", "/model/listModel"): ("read", models.page),
        ("POST", "/task/createTask"): ("submit", tasks.create),
        ("GET", "/task/getTaskResult"): ("read", tasks.result),
        ("POST", "/task/getTaskBatch"): ("read", tasks.batch),
        ("POST", "/task/listTask"): ("read", tasks.page),
        ("POST", "/stat/listModelStat"): ("read", statistics.page),
    }
