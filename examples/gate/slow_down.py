"""Write `attention.json`: the compiler's schedule with fewer rows at a time in the output projection."""

from dataclasses import replace

from test_schedules import HERE, attention

from tilescore import save_schedule, schedule_differences

old = attention().schedule
new = replace(old, out=replace(old.out, m_tile=4))
save_schedule(new, HERE / "attention.json")
print("\n".join(schedule_differences(old, new)))
