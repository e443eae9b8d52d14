// Package agent is the loop of specql-agent: claim, run, record.
//
// An agent's life: New checks its options and touches nothing; Run registers
// it, claims jobs by lane, runs them, records their results and, when its
// context ends, stops claiming, finishes what runs, hands back the rest and
// leaves. Apply swaps the registry under it; attempts under way keep theirs.
//
// It promises that no job is lost: whatever it claimed is recorded, handed
// back, or taken over by another agent once its lease has run out. It never
// decides what a service may do: registry and runners do.
package agent
