package main

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"code.cloudfoundry.org/bbs"
	"code.cloudfoundry.org/bbs/models"
)

// purge takes every task away, by its state.
func purge() {
	cl := newClient()
	var ts []*models.Task
	var err error
	if *fDomain != "" {
		ts, err = cl.TasksByDomain(logger, "", *fDomain)
	} else {
		ts, err = cl.Tasks(logger, "")
	}
	if err != nil {
		die("list: %v", err)
	}
	*fN = len(ts)
	if len(ts) == 0 {
		emit(res{"n": 0})
		return
	}
	simple("purge", func(cl bbs.InternalClient, i int) error {
		t := ts[i]
		switch t.State {
		case models.Task_Pending:
			if err := cl.CancelTask(logger, "", t.TaskGuid); err != nil {
				return err
			}
		case models.Task_Running:
			if err := cl.CompleteTask(logger, "", t.TaskGuid, t.CellId, true, "purged", ""); err != nil {
				return err
			}
		}
		if t.State != models.Task_Resolving {
			if err := cl.ResolvingTask(logger, "", t.TaskGuid); err != nil {
				return err
			}
		}
		return cl.DeleteTask(logger, "", t.TaskGuid)
	})
}

// wait measures the time until the server answers a ping.
func wait() {
	cl := newClient()
	since := time.Now()
	if *fSince > 0 {
		since = time.Unix(0, *fSince)
	}
	lim := time.Now().Add(60 * time.Second)
	for time.Now().Before(lim) {
		if cl2 := cl; cl2 != nil {
			// one attempt; the library sleeps 500 ms after a failure, so dial first
			d, err := net.DialTimeout("tcp", hostport(), 200*time.Millisecond)
			if err != nil {
				time.Sleep(2 * time.Millisecond)
				continue
			}
			d.Close()
			rs, err := rawHTTP().Post(*fURL+"/v1/ping", "application/x-protobuf", nil)
			if err == nil {
				io.Copy(io.Discard, rs.Body)
				rs.Body.Close()
				if rs.StatusCode == 200 {
					emit(res{"ready_ms": ms(time.Since(since))})
					return
				}
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	emit(res{"ready_ms": -1})
	os.Exit(1)
}

func hostport() string { u, _ := url.Parse(*fURL); return u.Host }

// watch samples the processes named by -pids for -dur.
func watch() {
	end := time.Now().Add(*fDur)
	prev := takeSnap(false)
	first := prev
	for time.Now().Before(end) {
		time.Sleep(*fEvery)
		s := takeSnap(false)
		w := s.t.Sub(prev.t).Seconds()
		parts := []string{s.t.UTC().Format("15:04:05.000")}
		for _, p := range procs {
			parts = append(parts, fmt.Sprintf("%s cpu=%.2f rss=%dMB", p.name, (s.u[p.name].cpu-prev.u[p.name].cpu)/w, s.u[p.name].rss/1024))
		}
		parts = append(parts, fmt.Sprintf("busy=%.2f", (s.busy-prev.busy)/w))
		fmt.Fprintln(os.Stderr, strings.Join(parts, " "))
		prev = s
	}
	prev = takeSnap(true)
	out := res{"wall_s": r3(prev.t.Sub(first.t).Seconds())}
	usageOut(out, first, prev)
	emit(out)
}
