package main

import (
	"sync/atomic"
	"time"

	"code.cloudfoundry.org/bbs"
	"code.cloudfoundry.org/bbs/models"
)

// eventsMode measures the time from just before a desire to its decoded created event, over -subs subscribers.
func eventsMode() {
	n := *fN
	starts := make([]atomic.Int64, n)
	ends := make([]atomic.Int64, n)
	type sub struct {
		l    []time.Duration
		post []time.Duration
		got  atomic.Int64
		rec  atomic.Int64
	}
	subs := make([]*sub, *fSubs)
	var last atomic.Int64
	var lastEv atomic.Int64
	for s := range subs {
		subs[s] = &sub{}
		cl := newClient()
		es, err := cl.SubscribeToTaskEvents(logger)
		if err != nil {
			die("subscribe: %v", err)
		}
		defer es.Close()
		go func(sb *sub) {
			for {
				ev, err := es.Next()
				now := time.Now().UnixNano()
				if err != nil {
					noteErr("event", err)
					return
				}
				ce, ok := ev.(*models.TaskCreatedEvent)
				if !ok {
					continue
				}
				i := guidIndex(ce.Task.TaskGuid)
				if i < 0 || i >= n {
					continue
				}
				sb.l = append(sb.l, time.Duration(now-starts[i].Load()))
				sb.got.Add(1)
				last.Store(now)
				lastEv.Store(now)
			}
		}(subs[s])
	}
	time.Sleep(300 * time.Millisecond)
	def := definition("")
	L := newLat(*fC)
	a, b, done := run(n, *fC, nil, func(w int, cl bbs.InternalClient, i int) {
		t := time.Now()
		starts[i].Store(t.UnixNano())
		err := cl.DesireTask(logger, "", guid(i), domain(i), of(def, i))
		L.add(w, time.Since(t))
		ends[i].Store(time.Now().UnixNano())
		if err != nil {
			noteErr("desire", err)
		}
	})
	desireWall := b.t.Sub(a.t).Seconds()
	last.Store(time.Now().UnixNano())
	for {
		all := true
		for _, s := range subs {
			if s.got.Load() < int64(done) {
				all = false
			}
		}
		if all || time.Since(time.Unix(0, last.Load())) > *fGrace {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	b = takeSnap(true)
	span := float64(lastEv.Load()-a.t.UnixNano()) / 1e9
	var all []time.Duration
	minGot, maxGot, total := int64(1<<62), int64(0), int64(0)
	for _, s := range subs {
		g := s.got.Load()
		total += g
		if g < minGot {
			minGot = g
		}
		if g > maxGot {
			maxGot = g
		}
		all = append(all, s.l[:g]...)
	}
	out := res{"n": done, "subs": *fSubs, "wall_s": r3(desireWall), "desire_per_s": r3(float64(done) / desireWall), "events_span_s": r3(span),
		"events_per_s": r3(float64(total) / span), "events_received": total, "min_per_sub": minGot, "max_per_sub": maxGot, "missing": int64(done**fSubs) - total, "rate": *fRate}
	pct(out, "event_ms", all)
	pct(out, "desire_ms", L.all())
	errsOut(out)
	usageOut(out, a, b)
	emit(out)
}
