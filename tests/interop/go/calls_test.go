package interop

import (
	"os"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/bbs/models"
)

func TestPing(t *testing.T) {
	client := newClient(t)
	if !client.Ping(logger, traceID) {
		t.Fatal("the board does not answer a ping")
	}
}

// TestTasksByDomain: exactly the tasks of a domain are listed for it, and all tasks include them.
func TestTasksByDomain(t *testing.T) {
	client := newClient(t)
	domain, other := unique("domain"), unique("domain")
	wanted := map[string]bool{unique("listed"): true, unique("listed"): true}
	for guid := range wanted {
		desire(t, client, guid, domain, longDefinition())
	}
	elsewhere := unique("elsewhere")
	desire(t, client, elsewhere, other, longDefinition())

	tasks, err := client.TasksByDomain(logger, traceID, domain)
	if err != nil {
		t.Fatal(err)
	}
	if len(tasks) != len(wanted) {
		t.Fatalf("%d tasks in the domain, want %d", len(tasks), len(wanted))
	}
	for _, task := range tasks {
		if !wanted[task.TaskGuid] || task.Domain != domain || task.TaskDefinition.GetRootFs() != "docker:///busybox" {
			t.Fatalf("not a task of the domain: %+v", task)
		}
	}

	all, err := client.Tasks(logger, traceID)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, task := range all {
		found[task.TaskGuid] = true
	}
	for guid := range wanted {
		if !found[guid] {
			t.Errorf("%s is not among all tasks", guid)
		}
	}
	if !found[elsewhere] {
		t.Errorf("%s is not among all tasks", elsewhere)
	}

	none, err := client.TasksByDomain(logger, traceID, unique("nobody"))
	if err != nil || len(none) != 0 {
		t.Fatalf("a domain without tasks lists %v, error %v", none, err)
	}
}

// TestTasksByCell: a running task is listed for its cell.
func TestTasksByCell(t *testing.T) {
	client := newClient(t)
	guid := unique("on-a-cell")
	desire(t, client, guid, unique("domain"), longDefinition())
	running := poll(t, client, guid, models.Task_Running)

	tasks, err := client.TasksByCellID(logger, traceID, running.CellId)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if task.CellId != running.CellId {
			t.Errorf("%s is on %q", task.TaskGuid, task.CellId)
		}
		if task.TaskGuid == guid {
			return
		}
	}
	t.Fatalf("%s is not listed for its cell %s", guid, running.CellId)
}

// TestResolveAndDelete: a client without a callback resolves and deletes the ended task itself.
func TestResolveAndDelete(t *testing.T) {
	client := newClient(t)
	guid := unique("resolved")
	desire(t, client, guid, unique("domain"), exampleDefinition(""))

	task := poll(t, client, guid, models.Task_Completed)
	if task.Failed || task.Result != "hello world\n" {
		t.Fatalf("the task ended as %+v", task)
	}
	requireError(t, client.DeleteTask(logger, traceID, guid),
		models.NewError(models.Error_InvalidStateTransition, "Cannot transition from Completed to Resolving"))
	if err := client.ResolvingTask(logger, traceID, guid); err != nil {
		t.Fatalf("resolving: %v", err)
	}
	requireError(t, client.ResolvingTask(logger, traceID, guid),
		models.NewError(models.Error_InvalidStateTransition, "Cannot transition from Resolving to Resolving"))
	if err := client.DeleteTask(logger, traceID, guid); err != nil {
		t.Fatalf("delete: %v", err)
	}
	_, err := client.TaskByGuid(logger, traceID, guid)
	requireError(t, err, models.ErrResourceNotFound)
}

func TestUnknownGuid(t *testing.T) {
	client := newClient(t)
	guid := unique("unknown")
	_, err := client.TaskByGuid(logger, traceID, guid)
	requireError(t, err, models.ErrResourceNotFound)
	requireError(t, client.CancelTask(logger, traceID, guid), models.ErrResourceNotFound)
	requireError(t, client.ResolvingTask(logger, traceID, guid), models.ErrResourceNotFound)
	requireError(t, client.DeleteTask(logger, traceID, guid), models.ErrResourceNotFound)
}

func TestDuplicateGuid(t *testing.T) {
	client := newClient(t)
	guid := unique("twice")
	desire(t, client, guid, unique("domain"), longDefinition())
	requireError(t, client.DesireTask(logger, traceID, guid, unique("domain"), longDefinition()), models.ErrResourceExists)
}

func TestInvalidRequests(t *testing.T) {
	client := newClient(t)
	definition := func(change func(*models.TaskDefinition)) *models.TaskDefinition {
		changed := longDefinition()
		change(changed)
		return changed
	}
	same := func(*models.TaskDefinition) {}
	for name, invalid := range map[string]struct {
		guid, domain string
		definition   *models.TaskDefinition
		text         string
	}{
		"guid with a space":  {"a b", "domain", definition(same), "Invalid field: task_guid"},
		"no domain":          {unique("invalid"), "", definition(same), "Invalid field: domain"},
		"no definition":      {unique("invalid"), "domain", nil, "Invalid field: task_definition"},
		"empty definition":   {unique("invalid"), "domain", &models.TaskDefinition{}, "Invalid field: rootfs, invalid action type"},
		"rootfs, no scheme":  {unique("invalid"), "domain", definition(func(d *models.TaskDefinition) { d.RootFs = "busybox" }), "Invalid field: rootfs"},
		"negative memory":    {unique("invalid"), "domain", definition(func(d *models.TaskDefinition) { d.MemoryMb = -1 }), "Invalid field: memory_mb"},
		"too long a note":    {unique("invalid"), "domain", definition(func(d *models.TaskDefinition) { d.Annotation = strings.Repeat("x", 10241) }), "Invalid field: annotation"},
		"run of nothing":     {unique("invalid"), "domain", definition(func(d *models.TaskDefinition) { d.Action = models.WrapAction(&models.RunAction{}) }), "Invalid field: action, Invalid field: path, Invalid field: user"},
		"guid far too long":  {strings.Repeat("g", 256), "domain", definition(same), "the request received is invalid"},
		"everything at once": {"", "", nil, "Invalid field: task_guid, Invalid field: domain, Invalid field: task_definition"},
	} {
		t.Run(name, func(t *testing.T) {
			err := client.DesireTask(logger, traceID, invalid.guid, invalid.domain, invalid.definition)
			requireError(t, err, models.NewError(models.Error_InvalidRequest, invalid.text))
		})
	}
}

func TestCells(t *testing.T) {
	client := newClient(t)
	cells, err := client.Cells(logger, traceID)
	if err != nil {
		t.Fatal(err)
	}
	wanted := os.Getenv("BULLETIN_CELL_ID")
	for _, cell := range cells {
		if wanted != "" && cell.CellId != wanted {
			continue
		}
		if cell.CellId == "" || cell.Capacity == nil || cell.Capacity.MemoryMb <= 0 || cell.Capacity.DiskMb <= 0 ||
			cell.Capacity.Containers <= 0 || len(cell.RootfsProviders) == 0 {
			t.Fatalf("the cell tells of itself %+v", cell)
		}
		return
	}
	t.Fatalf("cell %q is not among %+v", wanted, cells)
}

func TestDomains(t *testing.T) {
	client := newClient(t)
	domain := unique("fresh")
	if err := client.UpsertDomain(logger, traceID, domain, time.Minute); err != nil {
		t.Fatal(err)
	}
	domains, err := client.Domains(logger, traceID)
	if err != nil {
		t.Fatal(err)
	}
	for _, listed := range domains {
		if listed == domain {
			return
		}
	}
	t.Fatalf("%s is not among %v", domain, domains)
}
