package main

import (
	"context"
	"fmt"
)

// drainSlots are the slots of drains: few and many.
var drainSlots = []int{100, 2000}

// throughput drains backlogs of no-op jobs through the complete agent, through the
// bare loop, and through River with as many workers as slots.
func throughput(ctx context.Context, l *lab) error {
	l.table.heading("Throughput: no-op jobs from a backlog, from the first start until the last is recorded as completed")
	small, err := l.finishedTemplate(ctx, fewFinished)
	if err != nil {
		return err
	}
	riverSmall, err := l.riverTemplate(ctx, fewFinished)
	if err != nil {
		return err
	}
	for _, slots := range drainSlots {
		found, err := l.drains(ctx, "throughput", slots, l.sizes.jobs, []place{
			{"agent", agentContender(slots), small, nil},
			{"bare loop", bareDrains(slots), small, nil},
			{"River", riverContender(slots, riverDrain), riverSmall, nil},
		}, nil)
		if err != nil {
			return err
		}
		l.table.compare(fmt.Sprintf("%d slots, against the bare loop", slots), found, of("agent", rate), of("bare loop", rate), perSecond, atLeast(0.85))
		l.table.compare(fmt.Sprintf("%d slots, against River", slots), found, of("agent", rate), of("River", rate), perSecond, atLeast(2))
	}
	return nil
}
