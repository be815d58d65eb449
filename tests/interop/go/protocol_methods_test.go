package interop

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/bbs"
	"code.cloudfoundry.org/bbs/models"
	"code.cloudfoundry.org/lager/v3"
)

// ownCell is the cell that these tests speak for; its certificate names it.
const ownCell = "interop-cell"

// methodTests has a test for every method of the client that is about tasks, domains, cells and the board itself.
var methodTests = map[string]func(*testing.T){
	"Ping":                  testPing,
	"Cells":                 testCells,
	"Domains":               testDomains,
	"UpsertDomain":          testDomains,
	"DesireTask":            testDesireTask,
	"Tasks":                 testTaskLists,
	"TasksWithFilter":       testTaskLists,
	"TasksByDomain":         testTaskLists,
	"TasksByCellID":         testTaskLists,
	"TaskByGuid":            testTaskByGuid,
	"StartTask":             testStartTask,
	"CancelTask":            testCancelTask,
	"FailTask":              testFailTask,
	"RejectTask":            testRejectTask,
	"CompleteTask":          testCompleteTask,
	"ResolvingTask":         testResolvingTask,
	"DeleteTask":            testDeleteTask,
	"SubscribeToTaskEvents": testSubscribeToTaskEvents,
}

// lrpMethods are those about long-running processes, which the board answers with an error of the wire.
var lrpMethods = []string{
	"ActualLRPGroupByProcessGuidAndIndex", "ActualLRPGroups", "ActualLRPGroupsByProcessGuid", "ActualLRPs",
	"ActualLRPsByProcessGuids", "ClaimActualLRP", "CrashActualLRP", "DesireLRP", "DesiredLRPByProcessGuid",
	"DesiredLRPRoutingInfos", "DesiredLRPSchedulingInfoByProcessGuid", "DesiredLRPSchedulingInfos", "DesiredLRPs",
	"EvacuateClaimedActualLRP", "EvacuateCrashedActualLRP", "EvacuateRunningActualLRP", "EvacuateStoppedActualLRP",
	"FailActualLRP", "RemoveActualLRP", "RemoveDesiredLRP", "RemoveEvacuatingActualLRP", "RetireActualLRP",
	"StartActualLRP", "UpdateDesiredLRP",
}

// lrpStreams are the streams of long-running processes, which are refused for good: the client must not come again.
var lrpStreams = []string{
	"SubscribeToEvents", "SubscribeToEventsByCellID", "SubscribeToInstanceEvents", "SubscribeToInstanceEventsByCellID",
}

// TestEveryMethod runs what there is for each method of the client's widest interface, and misses none.
func TestEveryMethod(t *testing.T) {
	client := reflect.TypeOf((*bbs.InternalClient)(nil)).Elem()
	for index := range client.NumMethod() {
		name := client.Method(index).Name
		switch test, found := methodTests[name]; {
		case found:
			t.Run(name, test)
		case slices.Contains(lrpMethods, name):
			t.Run(name, func(t *testing.T) { testUnsupported(t, name) })
		case slices.Contains(lrpStreams, name):
			t.Run(name, func(t *testing.T) { testUnsupportedStream(t, name) })
		default:
			t.Errorf("no test of %s", name)
		}
	}
	if known := len(methodTests) + len(lrpMethods) + len(lrpStreams); known != client.NumMethod() {
		t.Errorf("tests of %d methods, and the client has %d", known, client.NumMethod())
	}
}

// callWithDefaults calls a method with arguments that are empty, and present where the client looks into them.
func callWithDefaults(t *testing.T, name string) error {
	t.Helper()
	method := reflect.ValueOf(newClientAs(t, "operator")).MethodByName(name)
	arguments := []reflect.Value{reflect.ValueOf(logger)}
	for index := 1; index < method.Type().NumIn(); index++ {
		kind := method.Type().In(index)
		if kind.Kind() == reflect.Pointer {
			arguments = append(arguments, reflect.New(kind.Elem()))
		} else {
			arguments = append(arguments, reflect.Zero(kind))
		}
	}
	results := method.Call(arguments)
	err, _ := results[len(results)-1].Interface().(error)
	return err
}

func testUnsupported(t *testing.T, name string) {
	err := callWithDefaults(t, name)
	requireError(t, err, models.NewError(models.Error_UnknownError,
		"long-running processes (LRPs) are not supported yet; this board runs tasks"))
}

func testUnsupportedStream(t *testing.T, name string) {
	err := callWithDefaults(t, name)
	if err == nil || !strings.Contains(err.Error(), "501") {
		t.Fatalf("the stream is answered with %v", err)
	}
}

func invalid(text string) *models.Error {
	return models.NewError(models.Error_InvalidRequest, text)
}

func transition(from, to string) *models.Error {
	return models.NewError(models.Error_InvalidStateTransition, "Cannot transition from "+from+" to "+to)
}

// bring desires a task and takes it to a state, as clients and its cell do.
func bring(t *testing.T, state models.Task_State) string {
	t.Helper()
	client, cell, guid := newClient(t), newClientAs(t, "cell"), unique("brought")
	desire(t, client, guid, unique("domain"), longDefinition())
	steps := []func() error{
		func() error { _, err := cell.StartTask(logger, traceID, guid, ownCell); return err },
		func() error { return cell.CompleteTask(logger, traceID, guid, ownCell, false, "", "the result") },
		func() error { return client.ResolvingTask(logger, traceID, guid) },
	}
	for _, step := range steps[:state-models.Task_Pending] {
		if err := step(); err != nil {
			t.Fatalf("bring %s to %s: %v", guid, state, err)
		}
	}
	return guid
}

func get(t *testing.T, guid string) *models.Task {
	t.Helper()
	task, err := newClient(t).TaskByGuid(logger, traceID, guid)
	if err != nil {
		t.Fatalf("read %s: %v", guid, err)
	}
	return task
}

func testPing(t *testing.T) {
	for _, trace := range []string{"", "0123456789abcdef0123456789abcdef", "7f461654-74d1-1ee5-8367-77d85df2cdab", "not a trace"} {
		if !newClient(t).Ping(logger, trace) {
			t.Fatalf("no answer to a ping with the trace id %q", trace)
		}
	}
}

func testCells(t *testing.T) {
	cells, err := newClient(t).Cells(logger, traceID)
	if err != nil || len(cells) != 0 {
		t.Fatalf("a board without cells lists %v, error %v", cells, err)
	}
}

func testDomains(t *testing.T) {
	client := newClient(t)
	for _, ttl := range []time.Duration{0, 900 * time.Millisecond, time.Hour} {
		domain := unique("fresh")
		if err := client.UpsertDomain(logger, traceID, domain, ttl); err != nil {
			t.Fatal(err)
		}
		domains, err := client.Domains(logger, traceID)
		if err != nil || !slices.Contains(domains, domain) {
			t.Fatalf("%s, fresh for %s, is not among %v, error %v", domain, ttl, domains, err)
		}
	}
	requireError(t, client.UpsertDomain(logger, traceID, "", time.Hour), invalid("Invalid field: domain"))
	requireError(t, client.UpsertDomain(logger, traceID, strings.Repeat("d", 256), time.Hour), models.ErrBadRequest)
}

func testDesireTask(t *testing.T) {
	client, guid, domain, definition := newClient(t), unique("desired"), unique("domain"), richDefinition()
	desire(t, client, guid, domain, definition)
	requireError(t, client.DesireTask(logger, traceID, guid, domain, definition), models.ErrResourceExists)
	requireError(t, client.DesireTask(logger, traceID, "", "", nil),
		invalid("Invalid field: task_guid, Invalid field: domain, Invalid field: task_definition"))
	requireError(t, client.DesireTask(logger, traceID, "a b", domain, definition), invalid("Invalid field: task_guid"))
	requireError(t, client.DesireTask(logger, traceID, unique("long"), strings.Repeat("d", 256), definition),
		models.ErrBadRequest)
}

// richDefinition has something in every corner of a definition.
func richDefinition() *models.TaskDefinition {
	definition := longDefinition()
	definition.Annotation = "übung \x01 \"quoted\""
	definition.EnvironmentVariables = []*models.EnvironmentVariable{{Name: "NAME", Value: "value"}}
	definition.EgressRules = []*models.SecurityGroupRule{{
		Protocol: "tcp", Destinations: []string{"10.0.0.0/8"}, PortRange: &models.PortRange{Start: 1, End: 1024},
	}}
	definition.CachedDependencies = []*models.CachedDependency{{Name: "n", From: "http://host/from", To: "/to", CacheKey: "key"}}
	definition.ImageLayers = []*models.ImageLayer{{
		Name: "shared", Url: "https://host/layer.tgz", DestinationPath: "/layer", LayerType: models.LayerTypeShared,
		MediaType: models.MediaTypeTgz, DigestAlgorithm: models.DigestAlgorithmSha256, DigestValue: "digest",
	}}
	definition.LogRateLimit = &models.LogRateLimit{BytesPerSecond: -1}
	definition.MetricTags = map[string]*models.MetricTagValue{
		"static": {Static: "value"}, "dynamic": {Dynamic: models.MetricTagDynamicValueIndex},
	}
	definition.PlacementTags = []string{"nowhere"}
	definition.LogGuid, definition.LogSource, definition.MetricsGuid = "log-guid", "LOG", "metrics-guid"
	return definition
}

func testTaskLists(t *testing.T) {
	client, guid := newClient(t), bring(t, models.Task_Running)
	domain := get(t, guid).Domain
	other := unique("other")
	desire(t, client, other, domain, longDefinition())

	for name, list := range map[string]struct {
		tasks func() ([]*models.Task, error)
		want  []string
	}{
		"by domain": {func() ([]*models.Task, error) { return client.TasksByDomain(logger, traceID, domain) }, []string{guid, other}},
		"by domain and cell": {func() ([]*models.Task, error) {
			return client.TasksWithFilter(logger, traceID, models.TaskFilter{Domain: domain, CellID: ownCell})
		}, []string{guid}},
		"of nobody":       {func() ([]*models.Task, error) { return client.TasksByDomain(logger, traceID, unique("nobody")) }, nil},
		"by unknown cell": {func() ([]*models.Task, error) { return client.TasksByCellID(logger, traceID, unique("nobody")) }, nil},
	} {
		tasks, err := list.tasks()
		var guids []string
		for _, task := range tasks {
			guids = append(guids, task.TaskGuid)
		}
		slices.Sort(guids)
		slices.Sort(list.want)
		if err != nil || !slices.Equal(guids, list.want) {
			t.Errorf("%s: %v, error %v; want %v", name, guids, err, list.want)
		}
	}
	for name, list := range map[string]func() ([]*models.Task, error){
		"all":     func() ([]*models.Task, error) { return client.Tasks(logger, traceID) },
		"by cell": func() ([]*models.Task, error) { return client.TasksByCellID(logger, traceID, ownCell) },
	} {
		tasks, err := list()
		if err != nil || !slices.ContainsFunc(tasks, func(task *models.Task) bool { return task.Equal(get(t, guid)) }) {
			t.Errorf("%s: %s is not among them, error %v", name, guid, err)
		}
	}
}

func testTaskByGuid(t *testing.T) {
	client, guid, domain, definition := newClient(t), unique("read"), unique("domain"), richDefinition()
	before := time.Now().UnixNano()
	desire(t, client, guid, domain, definition)
	task := get(t, guid)
	if task.TaskGuid != guid || task.Domain != domain || task.State != models.Task_Pending || task.CellId != "" ||
		task.CreatedAt < before || task.UpdatedAt != task.CreatedAt || task.FirstCompletedAt != 0 {
		t.Fatalf("the task is %+v", task)
	}
	if !task.TaskDefinition.Equal(definition) {
		t.Fatalf("the definition came back as %+v", task.TaskDefinition)
	}
	_, err := client.TaskByGuid(logger, traceID, unique("unknown"))
	requireError(t, err, models.ErrResourceNotFound)
	_, err = client.TaskByGuid(logger, traceID, "a b")
	requireError(t, err, models.ErrResourceNotFound)
	_, err = client.TaskByGuid(logger, traceID, "")
	requireError(t, err, invalid("Invalid field: task_guid"))
}

func testStartTask(t *testing.T) {
	cell, guid := newClientAs(t, "cell"), bring(t, models.Task_Pending)
	for _, want := range []bool{true, false} {
		started, err := cell.StartTask(logger, traceID, guid, ownCell)
		if err != nil || started != want {
			t.Fatalf("should start: %v, error %v; want %v", started, err, want)
		}
	}
	if task := get(t, guid); task.State != models.Task_Running || task.CellId != ownCell {
		t.Fatalf("the task is %+v", task)
	}
	for state, name := range map[models.Task_State]string{models.Task_Completed: "Completed", models.Task_Resolving: "Resolving"} {
		_, err := cell.StartTask(logger, traceID, bring(t, state), ownCell)
		requireError(t, err, transition(name, "Running"))
	}
	_, err := cell.StartTask(logger, traceID, unique("unknown"), ownCell)
	requireError(t, err, models.ErrResourceNotFound)
	_, err = cell.StartTask(logger, traceID, "a b", "")
	requireError(t, err, invalid("Invalid field: task_guid, Invalid field: cell_id"))
	if certificates() == "" {
		_, err = cell.StartTask(logger, traceID, guid, "another-cell")
		requireError(t, err, transition("Running", "Running"))
	}
}

func testCancelTask(t *testing.T) {
	testEndings(t, newClient(t).CancelTask, "task was cancelled", "")
}

func testFailTask(t *testing.T) {
	client := newClient(t)
	fail := func(logger lager.Logger, traceID, guid string) error {
		return client.FailTask(logger, traceID, guid, "it was not to be")
	}
	testEndings(t, fail, "it was not to be", "")
	requireError(t, client.FailTask(logger, traceID, "a b", ""),
		invalid("Invalid field: task_guid, Invalid field: failure_reason"))
}

// testEndings ends tasks from outside, from every state they can be in.
func testEndings(t *testing.T, end func(lager.Logger, string, string) error, reason, result string) {
	t.Helper()
	for _, state := range []models.Task_State{models.Task_Pending, models.Task_Running} {
		guid := bring(t, state)
		if err := end(logger, traceID, guid); err != nil {
			t.Fatalf("end a task that is %s: %v", state, err)
		}
		task := get(t, guid)
		if task.State != models.Task_Completed || !task.Failed || task.FailureReason != reason || task.Result != result ||
			task.CellId != "" || task.FirstCompletedAt == 0 {
			t.Fatalf("the task is %+v", task)
		}
		requireError(t, end(logger, traceID, guid), transition("Completed", "Completed"))
	}
	requireError(t, end(logger, traceID, bring(t, models.Task_Resolving)), transition("Resolving", "Completed"))
	requireError(t, end(logger, traceID, unique("unknown")), models.ErrResourceNotFound)
}

func testRejectTask(t *testing.T) {
	operator, guid := newClientAs(t, "operator"), bring(t, models.Task_Pending)
	for count := int32(1); count <= 2; count++ {
		if err := operator.RejectTask(logger, traceID, guid, "no room"); err != nil {
			t.Fatalf("reject: %v", err)
		}
		task := get(t, guid)
		if task.State != models.Task_Pending || task.RejectionCount != count || task.RejectionReason != "no room" {
			t.Fatalf("the task is %+v", task)
		}
	}
	running := bring(t, models.Task_Running)
	if err := newClientAs(t, "cell").RejectTask(logger, traceID, running, "no container"); err != nil {
		t.Fatalf("reject by its cell: %v", err)
	}
	if task := get(t, running); task.State != models.Task_Pending || task.CellId != ownCell || task.RejectionCount != 1 {
		// The cell stays on record until another one starts the task, as with the reference (board-api.md section 6).
		t.Fatalf("the task is %+v", task)
	}
	for _, state := range []models.Task_State{models.Task_Completed, models.Task_Resolving} {
		requireError(t, operator.RejectTask(logger, traceID, bring(t, state), "too late"), models.ErrBadRequest)
	}
	requireError(t, operator.RejectTask(logger, traceID, unique("unknown"), "no room"), models.ErrResourceNotFound)
	requireError(t, operator.RejectTask(logger, traceID, guid, ""), invalid("Invalid field: failure_reason"))
}

func testCompleteTask(t *testing.T) {
	cell := newClientAs(t, "cell")
	for _, outcome := range []struct {
		failed         bool
		reason, result string
	}{{false, "", "the result"}, {true, "it broke", ""}, {false, "", strings.Repeat("r", 100_000)}} {
		guid := bring(t, models.Task_Running)
		if err := cell.CompleteTask(logger, traceID, guid, ownCell, outcome.failed, outcome.reason, outcome.result); err != nil {
			t.Fatalf("complete: %v", err)
		}
		task := get(t, guid)
		if task.State != models.Task_Completed || task.Failed != outcome.failed || task.FailureReason != outcome.reason ||
			task.Result != outcome.result || task.CellId != "" {
			t.Fatalf("the task is %+v", task)
		}
		requireError(t, cell.CompleteTask(logger, traceID, guid, ownCell, false, "", ""), transition("Completed", "Completed"))
	}
	complete := func(guid, cellID string) error {
		return cell.CompleteTask(logger, traceID, guid, cellID, false, "", "")
	}
	requireError(t, complete(bring(t, models.Task_Pending), ownCell), transition("Pending", "Completed"))
	requireError(t, complete(bring(t, models.Task_Resolving), ownCell), transition("Resolving", "Completed"))
	requireError(t, complete(unique("unknown"), ownCell), models.ErrResourceNotFound)
	requireError(t, complete("a b", ""), invalid("Invalid field: task_guid, Invalid field: cell_id"))
	if certificates() == "" {
		requireError(t, complete(bring(t, models.Task_Running), "another-cell"),
			models.NewRunningOnDifferentCellError("another-cell", ownCell))
	}
}

func testResolvingTask(t *testing.T) {
	client, guid := newClient(t), bring(t, models.Task_Completed)
	if err := client.ResolvingTask(logger, traceID, guid); err != nil {
		t.Fatal(err)
	}
	if task := get(t, guid); task.State != models.Task_Resolving || task.Result != "the result" {
		t.Fatalf("the task is %+v", task)
	}
	requireError(t, client.ResolvingTask(logger, traceID, guid), transition("Resolving", "Resolving"))
	requireError(t, client.ResolvingTask(logger, traceID, bring(t, models.Task_Pending)), transition("Pending", "Resolving"))
	requireError(t, client.ResolvingTask(logger, traceID, bring(t, models.Task_Running)), transition("Running", "Resolving"))
	requireError(t, client.ResolvingTask(logger, traceID, unique("unknown")), models.ErrResourceNotFound)
	requireError(t, client.ResolvingTask(logger, traceID, ""), invalid("Invalid field: task_guid"))
}

func testDeleteTask(t *testing.T) {
	client, guid := newClient(t), bring(t, models.Task_Resolving)
	if err := client.DeleteTask(logger, traceID, guid); err != nil {
		t.Fatal(err)
	}
	requireError(t, client.DeleteTask(logger, traceID, guid), models.ErrResourceNotFound)
	for _, state := range []models.Task_State{models.Task_Pending, models.Task_Running, models.Task_Completed} {
		requireError(t, client.DeleteTask(logger, traceID, bring(t, state)), transition(state.String(), "Resolving"))
	}
	requireError(t, client.DeleteTask(logger, traceID, ""), invalid("Invalid field: task_guid"))
}

func testSubscribeToTaskEvents(t *testing.T) {
	source, err := newClient(t).SubscribeToTaskEvents(logger)
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Next(); err == nil {
		t.Fatal("a closed source gives events")
	}
}

// TestErrorsAreTheClients: what callers compare with, they get, by type and by depth.
func TestErrorsAreTheClients(t *testing.T) {
	_, err := newClient(t).TaskByGuid(logger, traceID, unique("unknown"))
	var refusal *models.Error
	if !errors.As(err, &refusal) || !models.ErrResourceNotFound.Equal(err) || models.ConvertError(err).Type != models.Error_ResourceNotFound {
		t.Fatalf("got %#v", err)
	}
}
