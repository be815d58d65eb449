package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"code.cloudfoundry.org/bbs"
)

// lifecycle takes tasks through desire, start, complete, resolving and delete, itself playing the cell.
func lifecycle() {
	names := []string{"desire", "start", "complete", "resolving", "delete"}
	L := make([]*lat, 5)
	for i := range L {
		L[i] = newLat(*fC)
	}
	life := newLat(*fC)
	def := definition("")
	var okLives atomic.Int64
	a, b, n := run(*fN, *fC, nil, func(w int, cl bbs.InternalClient, i int) {
		g := guid(i)
		t0 := time.Now()
		for k := 0; k < 5; k++ {
			t := time.Now()
			var err error
			switch k {
			case 0:
				err = cl.DesireTask(logger, "", g, domain(i), of(def, i))
			case 1:
				var ok bool
				ok, err = cl.StartTask(logger, "", g, *fCell)
				if err == nil && !ok {
					err = fmt.Errorf("should_start false")
				}
			case 2:
				err = cl.CompleteTask(logger, "", g, *fCell, false, "", "hello world")
			case 3:
				err = cl.ResolvingTask(logger, "", g)
			case 4:
				err = cl.DeleteTask(logger, "", g)
			}
			if err != nil {
				noteErr(names[k], err)
				return
			}
			L[k].add(w, time.Since(t))
		}
		life.add(w, time.Since(t0))
		okLives.Add(1)
	})
	wall := b.t.Sub(a.t).Seconds()
	out := res{"n": n, "wall_s": r3(wall), "lives_ok": okLives.Load(), "lives_per_s": r3(float64(okLives.Load()) / wall), "ops_per_s": r3(float64(okLives.Load()*5) / wall)}
	for k, nm := range names {
		pct(out, nm+"_ms", L[k].all())
	}
	pct(out, "life_ms", life.all())
	errsOut(out)
	usageOut(out, a, b)
	emit(out)
}
