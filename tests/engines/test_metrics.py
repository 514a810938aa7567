"""Prometheus text of vLLM, read and summed up."""

from __future__ import annotations

import pytest

from local_shutdown.engines.metrics import Reading, Series, merge, parse, summary

# As vLLM 0.32 gives it out, with two data-parallel ranks.
TEXT = """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 11042.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/m"} 3.0
vllm:num_requests_running{engine="1",model_name="org/m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="org/m"} 0.0
vllm:num_requests_waiting{engine="1",model_name="org/m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="org/m",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="org/m"} 0.125
vllm:kv_cache_usage_perc{engine="1",model_name="org/m"} 0.5
vllm:prefix_cache_queries_total{engine="0",model_name="org/m"} 1.5e+03
vllm:prefix_cache_queries_created{engine="0",model_name="org/m"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="org/m"} 1200.0
vllm:generation_tokens_total{engine="0",model_name="org/m"} 500.0
vllm:prompt_tokens_total{engine="0",model_name="org/m"} 7000.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="org/m",source="x"} 9.0
vllm:num_preemptions_total{engine="0",model_name="org/m"} 1.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="org/m"} 5.0
"""


def test_every_number_is_found_over_all_ranks() -> None:
    assert parse(TEXT) == Reading(
        running=7, waiting=2, kv_usage=0.5, prefix_queries=1500, prefix_hits=1200,
        prompt_tokens=7000, generation_tokens=500, preemptions=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "<html>", "vllm:", "vllm:num_requests_running", "vllm:num_requests_running NaN", "\0"],
)
def test_text_that_says_nothing_is_unknown_and_not_zero(text: str) -> None:
    assert parse(text) == Reading()


def test_older_names_are_understood() -> None:
    assert parse('vllm:gpu_cache_usage_perc{model_name="m"} 0.25').kv_usage == 0.25


def reading(tokens: float, running: float = 2.0) -> Reading:
    return Reading(running=running, waiting=0.0, generation_tokens=tokens, prompt_tokens=0.0)


def test_rates_are_taken_over_the_time_that_was_watched() -> None:
    series = Series()
    for second, tokens in enumerate([1000.0, 1100.0, 1300.0]):
        series.add(reading(tokens), float(second))
    assert series.summary()["generation_tokens_per_s"] == 150.0
    assert series.tokens == 300


def test_a_server_that_was_started_again_counts_on() -> None:
    series = Series()
    for second, tokens in enumerate([1000.0, 1100.0, 20.0, 50.0]):
        series.add(reading(tokens), float(second))
    assert series.tokens == 150


def test_the_mean_and_the_peak_of_what_was_running() -> None:
    series = Series()
    for second, running in enumerate([1.0, 2.0, 6.0]):
        series.add(reading(0, running), float(second))
    found = series.summary()
    assert (found["requests_running_mean"], found["requests_running_peak"]) == (3.0, 6.0)


def test_the_hit_rate_is_that_of_the_time_watched() -> None:
    series = Series()
    series.add(Reading(prefix_queries=1000, prefix_hits=0), 0.0)
    series.add(Reading(prefix_queries=1100, prefix_hits=90), 1.0)
    assert series.summary()["prefix_hit_rate"] == 0.9


def test_what_the_server_never_said_is_unknown() -> None:
    series = Series()
    series.add(Reading(running=1.0), 0.0)
    series.add(Reading(running=1.0), 1.0)
    found = series.summary()
    assert found["kv_usage_mean"] is None
    assert found["preemptions"] is None
    assert found["prefix_hit_rate"] is None


def test_the_speed_now_is_that_of_the_last_readings() -> None:
    series = Series()
    for second in range(20):
        series.add(reading(0.0 if second < 10 else 100.0 * (second - 9)), float(second))
    assert series.tokens_per_s == 100.0


def test_one_reading_has_no_speed() -> None:
    series = Series()
    series.add(reading(5), 0.0)
    assert series.tokens_per_s is None


def test_several_servers_add_up_where_all_of_them_say() -> None:
    both = merge([Reading(running=1, kv_usage=0.1), Reading(running=2, kv_usage=0.3, waiting=1)])
    assert (both.running, both.kv_usage, both.waiting) == (3, 0.3, None)


def test_their_summaries_add_up_too() -> None:
    one, two = Series(), Series()
    for second, tokens in enumerate([0.0, 100.0]):
        one.add(reading(tokens), float(second))
        two.add(reading(2 * tokens), float(second))
    found = summary([one, two])
    assert (found["generation_tokens_per_s"], found["requests_running_mean"]) == (300.0, 4.0)


def test_a_server_that_never_said_anything_has_no_summary() -> None:
    assert summary([Series()]) == {}
