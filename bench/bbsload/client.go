package main

import (
	"fmt"
	"strconv"
	"strings"

	"code.cloudfoundry.org/bbs"
	"code.cloudfoundry.org/bbs/models"
	"code.cloudfoundry.org/lager/v3"
)

var logger = lager.NewLogger("bbsload")

var isTLS bool

var prefix string

var domains []string

// newClient makes the published client with one attempt a call, so that errors show.
func newClient() bbs.InternalClient {
	c, err := bbs.NewClientWithConfig(bbs.ClientConfig{
		URL: *fURL, IsTLS: isTLS, CAFile: *fCA, CertFile: *fCert, KeyFile: *fKey,
		InsecureSkipVerify: *fInsecure, MaxIdleConnsPerHost: 512,
		Retries: *fRetries, RequestTimeout: *fTimeout,
	})
	if err != nil {
		die("client: %v", err)
	}
	return c
}

// clients makes one client a worker: over plain http the library keeps two idle connections only.
func clients(n int) []bbs.InternalClient {
	out := make([]bbs.InternalClient, n)
	var one bbs.InternalClient
	if isTLS && *fShared {
		one = newClient()
	}
	for i := range out {
		if one != nil {
			out[i] = one
		} else {
			out[i] = newClient()
		}
	}
	return out
}

func guid(i int) string { return fmt.Sprintf("%s-%07d", prefix, i) }

func domain(i int) string { return domains[i%len(domains)] }

// guidIndex is the number in a guid of this run, -1 for any other guid.
func guidIndex(g string) int {
	if !strings.HasPrefix(g, prefix+"-") {
		return -1
	}
	i, err := strconv.Atoi(g[len(prefix)+1:])
	if err != nil {
		return -1
	}
	return i
}

// definition is the task that the documentation of the BBS desires, with a callback where cb is not empty.
func definition(cb string) *models.TaskDefinition {
	env := make([]*models.EnvironmentVariable, *fEnv)
	for i := range env {
		env[i] = &models.EnvironmentVariable{Name: fmt.Sprintf("VAR_%d", i), Value: fmt.Sprintf("value-of-variable-%d", i)}
	}
	return &models.TaskDefinition{
		RootFs:               "docker:///docker.com/docker",
		EnvironmentVariables: env,
		Action: models.WrapAction(&models.RunAction{
			User: "user", Path: "sh", Args: []string{"-c", "echo hello world > result-file.txt"},
			Env:            []*models.EnvironmentVariable{{Name: "FOO", Value: "BAR"}},
			ResourceLimits: &models.ResourceLimits{},
		}),
		MemoryMb: 256, DiskMb: 1024, MaxPids: 1024, CpuWeight: 42,
		LogGuid: "log-guid-123", LogSource: "APP", MetricsGuid: "metrics-guid-456",
		ResultFile:            "result-file.txt",
		CompletionCallbackUrl: cb,
		Annotation:            "place any label/note/thing here" + strings.Repeat("x", *fPad),
		EgressRules: []*models.SecurityGroupRule{
			{Protocol: "tcp", Destinations: []string{"0.0.0.0/0"}, PortRange: &models.PortRange{Start: 1, End: 1024}, Log: true},
			{Protocol: "udp", Destinations: []string{"8.8.0.0/16"}, Ports: []uint32{53}},
		},
		TrustedSystemCertificatesPath: "/etc/somepath",
	}
}

// of is def for task i: the same message for all, or with -unique one that differs.
func of(def *models.TaskDefinition, i int) *models.TaskDefinition {
	if !*fUnique {
		return def
	}
	own := *def
	own.Annotation += guid(i)
	return &own
}
