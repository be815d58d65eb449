package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"code.cloudfoundry.org/bbs"
	"code.cloudfoundry.org/bbs/models"
)

// callback measures the time from completing a task to the arrival of its callback.
func callback() {
	n := *fN
	arr := make([]atomic.Int64, n)
	dup := atomic.Int64{}
	var got, last atomic.Int64
	bad := atomic.Int64{}
	conns := atomic.Int64{}
	srv := &http.Server{Addr: *fCBAddr, ConnState: func(c net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		now := time.Now().UnixNano()
		var cb models.TaskCallbackResponse
		if err := json.Unmarshal(b, &cb); err != nil || cb.Result != "hello world" {
			bad.Add(1)
			return
		}
		i := guidIndex(cb.TaskGuid)
		if i >= 0 && i < n {
			if !arr[i].CompareAndSwap(0, now) {
				dup.Add(1)
			} else {
				got.Add(1)
				last.Store(now)
			}
		}
	})}
	ln, err := net.Listen("tcp", *fCBAddr)
	if err != nil {
		die("listen: %v", err)
	}
	go srv.Serve(ln)
	def := definition("http://" + *fCBAddr + "/cb")
	cc := *fC
	if cc < 16 {
		cc = 16
	}
	cls := clients(cc)
	rate := *fRate
	*fRate = 0
	run(n, cc, cls, func(w int, cl bbs.InternalClient, i int) {
		if err := cl.DesireTask(logger, "", guid(i), domain(i), of(def, i)); err != nil {
			noteErr("desire", err)
		}
	})
	run(n, cc, cls, func(w int, cl bbs.InternalClient, i int) {
		if _, err := cl.StartTask(logger, "", guid(i), *fCell); err != nil {
			noteErr("start", err)
		}
	})
	time.Sleep(time.Second)
	*fRate = rate
	st := make([]int64, n)
	L := newLat(*fC)
	a, b, done := run(n, *fC, cls, func(w int, cl bbs.InternalClient, i int) {
		t := time.Now()
		st[i] = t.UnixNano()
		err := cl.CompleteTask(logger, "", guid(i), *fCell, false, "", "hello world")
		L.add(w, time.Since(t))
		if err != nil {
			noteErr("complete", err)
		}
	})
	completeWall := b.t.Sub(a.t).Seconds()
	last.CompareAndSwap(0, time.Now().UnixNano())
	for got.Load() < int64(done) && time.Since(time.Unix(0, last.Load())) < *fGrace {
		time.Sleep(2 * time.Millisecond)
	}
	cbSpan := float64(last.Load()-a.t.UnixNano()) / 1e9
	// drained: last tasks gone from the server
	left := -1
	var drain float64
	lim := time.Now().Add(*fGrace)
	for time.Now().Before(lim) {
		missing := 0
		for k := 0; k < 64 && k < n; k++ { // the last ones to be completed
			if _, err := cls[0].TaskByGuid(logger, "", guid(n-1-k)); err == nil {
				missing++
			}
		}
		if missing == 0 {
			drain = time.Since(a.t).Seconds()
			left = 0
			break
		}
		left = missing
		time.Sleep(5 * time.Millisecond)
	}
	b = takeSnap(true)
	var l []time.Duration
	for i := 0; i < n; i++ {
		if x := arr[i].Load(); x > 0 {
			l = append(l, time.Duration(x-st[i]))
		}
	}
	out := res{"n": done, "wall_s": r3(completeWall), "complete_per_s": r3(float64(done) / completeWall), "callbacks": got.Load(), "duplicates": dup.Load(), "bad": bad.Load(), "callback_span_s": r3(cbSpan),
		"callbacks_per_s": r3(float64(got.Load()) / cbSpan), "drained_s": r3(drain), "left_of_last64": left, "callback_connections": conns.Load(), "rate": *fRate}
	pct(out, "callback_ms", l)
	pct(out, "complete_ms", L.all())
	errsOut(out)
	usageOut(out, a, b)
	emit(out)
}
