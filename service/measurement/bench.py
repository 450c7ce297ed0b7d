"""The measurement that a server or the command line takes of a prepared bundle's two graphs."""

from service.bundle.latency import LatencyReport, Machine
from service.bundle.store import Bundle
from service.measurement.runner import DEFAULT_BUDGET_S, DEFAULT_ROUNDS, Progress, Traffic, Workload, measure_latency
from service.measurement.runtime_arms import NULL_CONTROL, RUNTIME_QUESTIONS, random_images, runtime_arms


def bench_bundle(
    bundle: Bundle,
    *,
    threads: int,
    batch: int = 1,
    rounds: int = DEFAULT_ROUNDS,
    budget_s: float = DEFAULT_BUDGET_S,
    progress: Progress | None = None,
    traffic: Traffic | None = None,
) -> LatencyReport:
    """Time the reference and the deployed graph on this machine's processor; the bundle keeps its own report.

    Args:
        threads: threads of each run, at least 1.
        batch: images per run.
        rounds, budget_s, progress, traffic: as in ``measure_latency``.

    Raises:
        MeasurementRefused: there is nothing to compare, too few rounds are asked for, or ``traffic`` ended it.
    """
    imgsz = bundle.manifest.model.input.height
    images = random_images(imgsz, batch)
    return measure_latency(
        runtime_arms(bundle.reference_graph, bundle.deployed_graph, images, threads),
        workload=Workload(imgsz=imgsz, threads=threads, batch=batch),
        null_control=NULL_CONTROL,
        questions=RUNTIME_QUESTIONS,
        rounds=rounds,
        budget_s=budget_s,
        progress=progress,
        traffic=traffic,
    )


def staleness(report: LatencyReport, here: Machine) -> list[str]:
    """Why a report may not hold on the machine ``here``, in words; empty when it was taken on its like."""
    there = report.machine
    compared = (
        ("processor", there.cpu, here.cpu),
        ("usable cores", there.cores, here.cores),
        ("system", there.system, here.system),
    )
    return [f"{what}: {then} when measured, {now} here" for what, then, now in compared if then != now]
