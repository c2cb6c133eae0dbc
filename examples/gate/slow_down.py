"""Write `attention.toml`: the compiler's schedule with fewer rows at a time in the output projection."""

from test_schedules import HERE, attention

from tilescore import save_schedule, schedule_differences

old = attention().schedule
new = old.change("out", m_tile=4)
save_schedule(new, HERE / "attention.toml")
print("\n".join(schedule_differences(old, new)))
