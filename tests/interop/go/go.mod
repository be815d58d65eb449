module bulletin-interop

go 1.26.2

require (
	code.cloudfoundry.org/bbs v1.11.0
	code.cloudfoundry.org/bbs/models v1.7.0
	code.cloudfoundry.org/cfhttp/v2 v2.83.0
	code.cloudfoundry.org/lager/v3 v3.78.0
	code.cloudfoundry.org/tlsconfig v0.60.0
	github.com/gogo/protobuf v1.3.2
	github.com/tedsuo/rata v1.0.0
	github.com/vito/go-sse v1.1.3
)

require (
	code.cloudfoundry.org/bbs/encryption v1.9.0 // indirect
	code.cloudfoundry.org/bbs/format v1.9.0 // indirect
	github.com/Masterminds/semver/v3 v3.5.0 // indirect
	github.com/bmizerany/pat v0.0.0-20210406213842-e4b6760bdd6f // indirect
	github.com/go-task/slim-sprig/v3 v3.0.0 // indirect
	github.com/google/pprof v0.0.0-20260709232956-b9395ee17fa0 // indirect
	github.com/onsi/ginkgo v1.16.5 // indirect
	github.com/onsi/ginkgo/v2 v2.32.0 // indirect
	github.com/openzipkin/zipkin-go v0.4.3 // indirect
	golang.org/x/mod v0.38.0 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/tools v0.48.0 // indirect
)
