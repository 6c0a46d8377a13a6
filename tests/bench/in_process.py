"""``l2o bench`` without processes of its own: each of them would import nerfstudio, which takes ten seconds."""

from dataclasses import asdict

from l2o_splat.bench.errors import BenchError
from l2o_splat.plugin.bench import run as bench_run


def bench_in_this_process(monkeypatch) -> None:
    """Let ``l2o bench`` ask and train in the process of the test."""

    def ask(methods, dataparsers):
        question = {"methods": [asdict(method) for method in methods], "dataparsers": list(dataparsers)}
        answer = bench_run.describe(question)
        if answer["errors"]:
            raise BenchError(" ".join(answer["errors"]))
        return answer

    def run_process(spec, folder, pictures, *_, **__):
        folder.mkdir(parents=True)
        bench_run.run(spec, folder, pictures)

    monkeypatch.setattr("l2o_splat.bench.command.ask", ask)
    monkeypatch.setattr("l2o_splat.bench.sweep.run_process", run_process)
