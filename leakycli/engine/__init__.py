"""How a run goes: job, plan, the loop over regions, executors, verify, events."""
