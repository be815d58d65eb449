package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"code.cloudfoundry.org/bbs"
	"code.cloudfoundry.org/bbs/models"
	"code.cloudfoundry.org/tlsconfig"
)

// rawHTTP is a client for calls whose answer is thrown away undecoded.
func rawHTTP() *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}
	if isTLS {
		var o []tlsconfig.ClientOption
		if !*fInsecure {
			o = append(o, tlsconfig.WithAuthorityFromFile(*fCA))
		}
		cfg, err := tlsconfig.Build(tlsconfig.WithInternalServiceDefaults(), tlsconfig.WithIdentityFromFile(*fCert, *fKey)).Client(o...)
		if err != nil {
			die("tls: %v", err)
		}
		cfg.InsecureSkipVerify = *fInsecure
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		tr.TLSClientConfig = cfg
	}
	return &http.Client{Transport: tr, Timeout: *fTimeout}
}

// list reads all tasks, or those of a domain or cell, -n times.
func list() {
	L := newLat(*fC)
	T := newLat(*fC)
	var count, size atomic.Int64
	hc := rawHTTP()
	a, b, n := run(*fN, *fC, nil, func(w int, cl bbs.InternalClient, i int) {
		t := time.Now()
		if *fRaw {
			body, _ := (&models.TasksRequest{Domain: *fDomain, CellId: *fCellF}).Marshal()
			rq, _ := http.NewRequest("POST", *fURL+"/v1/tasks/list.r3", bytes.NewReader(body))
			rq.Header.Set("Content-Type", "application/x-protobuf")
			var ttfb time.Duration
			rq = rq.WithContext(httptrace.WithClientTrace(rq.Context(), &httptrace.ClientTrace{GotFirstResponseByte: func() { ttfb = time.Since(t) }}))
			rs, err := hc.Do(rq)
			if err != nil {
				noteErr("list", err)
				return
			}
			k, err := io.Copy(io.Discard, rs.Body)
			rs.Body.Close()
			if err != nil || rs.StatusCode != 200 {
				noteErr("list", fmt.Errorf("status %d %v", rs.StatusCode, err))
			}
			size.Store(k)
			T.add(w, ttfb)
		} else {
			var ts []*models.Task
			var err error
			switch {
			case *fDomain != "":
				ts, err = cl.TasksByDomain(logger, "", *fDomain)
			case *fCellF != "":
				ts, err = cl.TasksByCellID(logger, "", *fCellF)
			default:
				ts, err = cl.Tasks(logger, "")
			}
			if err != nil {
				noteErr("list", err)
			}
			count.Store(int64(len(ts)))
		}
		L.add(w, time.Since(t))
	})
	wall := b.t.Sub(a.t).Seconds()
	out := res{"n": n, "wall_s": r3(wall), "ops_per_s": r3(float64(n) / wall), "tasks_returned": count.Load(), "body_bytes": size.Load(), "raw": *fRaw, "filter_domain": *fDomain}
	pct(out, "lat_ms", L.all())
	pct(out, "ttfb_ms", T.all())
	errsOut(out)
	usageOut(out, a, b)
	emit(out)
}
