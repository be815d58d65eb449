package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"code.cloudfoundry.org/bbs"
)

// run calls op(worker, client, i) for i in [0,n); every worker first pings once so that the
// connection (and its TLS handshake) exists before the clock starts.
func run(n, c int, cl []bbs.InternalClient, op func(w int, cl bbs.InternalClient, i int)) (snap, snap, int) {
	if cl == nil {
		cl = clients(c)
	}
	var next atomic.Int64
	var done atomic.Int64
	start := make(chan struct{})
	var ready, wg sync.WaitGroup
	ready.Add(c)
	wg.Add(c)
	var deadline time.Time
	var t0 time.Time
	for w := 0; w < c; w++ {
		go func(w int) {
			defer wg.Done()
			if !cl[w].Ping(logger, "") {
				noteErr("ping", fmt.Errorf("false"))
			}
			ready.Done()
			<-start
			for {
				i := int(next.Add(1)) - 1
				if i >= n || (*fDur > 0 && time.Now().After(deadline)) {
					return
				}
				if *fRate > 0 {
					if d := time.Until(t0.Add(time.Duration(float64(i) / *fRate * 1e9))); d > 0 {
						time.Sleep(d)
					}
				}
				op(w, cl[w], i)
				done.Add(1)
			}
		}(w)
	}
	ready.Wait()
	time.Sleep(50 * time.Millisecond)
	a := takeSnap(false)
	deadline = time.Now().Add(*fDur)
	t0 = time.Now()
	close(start)
	wg.Wait()
	tEnd := time.Now()
	b := takeSnap(true)
	a.t, b.t = t0, tEnd // wall time excludes the accounting passes
	return a, b, int(done.Load())
}

// simple runs -n operations that are one call each.
func simple(opname string, op func(cl bbs.InternalClient, i int) error) {
	L := newLat(*fC)
	var last atomic.Int64
	var first atomic.Int64
	a, b, n := run(*fN, *fC, nil, func(w int, cl bbs.InternalClient, i int) {
		t := time.Now()
		first.CompareAndSwap(0, t.UnixNano())
		err := op(cl, i)
		d := time.Since(t)
		if err != nil {
			noteErr(opname, err)
		}
		L.add(w, d)
		e := time.Now().UnixNano()
		for {
			o := last.Load()
			if e <= o || last.CompareAndSwap(o, e) {
				break
			}
		}
	})
	wall := float64(last.Load()-first.Load()) / 1e9
	out := res{"n": n, "wall_s": r3(wall), "ops_per_s": r3(float64(n) / wall)}
	pct(out, "lat_ms", L.all())
	errsOut(out)
	usageOut(out, a, b)
	emit(out)
}
