#include "api/net/network_life.h"
#include "api/net/network.h"
#include "api/net/network_process.h"
#include "api/net/network_programs.h"
#include "api/net/network_retry.h"
#include "api/net/network_wait.h"
#include "api/schema/event.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_host.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/egress.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_NS (30 * 1000000000ULL)
#define TAKE_BACK_TIMEOUT_NS (20 * 1000000000ULL)
#define QUERIES_MAX 8

struct network_operation {
	const char *verb;
	struct network_process *process;
	/* Called when the process has ended, after the operation was freed. */
	void (*ended)(struct network *n, struct network_operation *op, int r, struct json_object *answer, const struct err *e);
	struct network_definition *next; /* owned: of an update */
	struct err failed;		 /* of the start or update that is being undone */
	bool ended_check;		 /* the operation has ended a check of the daemon's own; repeat the check */
	network_done *done;		 /* NULL: nobody waits */
	void *opaque;
};

void network_state_emit(const struct network *n, const char *detail)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "state", network_state_word(n->state));
	js_put_str(data, "detail", detail);
	network_emit(n, EVENT_NETWORK_STATE_CHANGE, data);
	log_info("network", "network '%s' is %s%s%s", network_any(n)->name, network_state_word(n->state), detail ? ": " : "",
		detail ? detail : "");
}

/* ---- running the program ---- */

void network_operation_free(struct network *n)
{
	struct network_operation *op = STEAL_PTR(n->operation);

	if (!op)
		return;
	network_process_free(op->process);
	network_definition_free(op->next);
	free(op);
}

/* Report that a program of the network has ended by itself. During an operation, cairn-net may have ended it; a query
 * ends no program. */
static void program_lost(struct network *n, const char *program)
{
	char text[80];

	if (network_is_busy(n))
		return;
	snprintf(text, sizeof(text), "its %s has ended, and is started again", program);
	network_state_emit(n, text);
}

static void check_ended(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e);

static bool is_check(const struct network_operation *op)
{
	return op && op->ended == check_ended;
}

void network_ports_notify(const struct network *n)
{
	for (size_t i = 0; i < n->host->nvms && n->ports_lost; i++)
		if (n->host->vms[i]->proc)
			vm_notify(n->host->vms[i], ports_lost, n->live->name);
}

static void program_done(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct network *n = opaque;
	struct network_operation op = *n->operation;
	struct vm_host *host = n->host;

	op.process = NULL; /* ends by itself */
	free(STEAL_PTR(n->operation));
	if (is_check(&op)) /* before it restores missing parts */
		network_programs_notice(n);
	else if (!r)
		network_programs_watch(n, answer, program_lost, network_check_parts);
	network_waits_wake(n);
	n->ports_lost = !r && !js_get_bool(answer, "ports", true);
	if (n->ports_lost && js_get_bool(answer, "complete", true)) /* else after the repair */
		network_ports_notify(n);
	if (!r && js_get_array(answer, "links")) {
		json_object_put(n->links);
		n->links = json_object_get(js_get_array(answer, "links"));
	}
	op.ended(n, &op, r, answer, e); /* may free the network */
	vm_starts_resume(host);
}

/* Start the program for a network without an operation. op: copied. d: the definition for the program. */
static int program_run(struct network *n, const struct network_operation *op, const struct network_definition *d, struct err *e)
{
	CLEANUP_JS struct json_object *request = NULL;
	struct network_process *process = NULL;
	int r = network_request_make(n, op->verb, d, &request, e);

	if (r < 0)
		return r;
	r = network_process_start(n->host->loop, n->host->paths->net_program, request, TIMEOUT_NS, program_done, n, &process, e);
	if (r < 0)
		return r;
	n->operation = must_alloc(malloc(sizeof(*n->operation)));
	*n->operation = *op;
	n->operation->process = process;
	return 0;
}

bool network_is_busy(const struct network *n)
{
	return n->operation && !is_check(n->operation);
}

/* End a check that the daemon makes by itself. Returns whether there was one. */
static bool check_end(struct network *n)
{
	bool looks = is_check(n->operation);

	if (looks)
		network_operation_free(n);
	return looks;
}

static int check_free(const struct network *n, struct err *e)
{
	if (!network_is_busy(n))
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "network '%s': %u commands wait for the end of the operation \"%s\"; try again when it has ended",
		network_any(n)->name, network_waits_count(n), n->operation->verb);
}

static void save_or_warn(struct network *n)
{
	struct err e;

	if (network_save(n, &e) < 0)
		log_error("network", "network '%s': its state cannot be stored: %s", network_any(n)->name, e.msg);
}

static void notes_log(const struct network *n, struct json_object *answer)
{
	struct json_object *notes = js_get_array(answer, "notes");

	for (size_t i = 0; notes && i < json_object_array_length(notes); i++)
		log_warn("network", "network '%s': %s", network_any(n)->name,
			json_object_get_string(json_object_array_get_idx(notes, i)));
}

static void answer(const struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	if (op->done)
		op->done(op->opaque, r, value, e);
}

/* ---- becoming inactive ---- */

/* Record that the network has no part on the host any more. Frees a transient network. detail: why; NULL: on request.
 */
static void become_inactive(struct network *n, const char *detail)
{
	struct network_definition *live = n->live;

	n->state = NETWORK_INACTIVE;
	network_retry_end(n);
	json_object_put(STEAL_PTR(n->blocked));
	network_state_emit(n, detail);
	save_or_warn(n);
	if (!n->def) {
		network_remove(n);
		return;
	}
	n->live = NULL;
	network_definition_free(live);
}

/* The leftovers of a failed start or an interrupted operation are removed. */
static void undone(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	(void)value;
	if (r < 0)
		log_error("network", "network '%s': parts of it may be left: %s", network_any(n)->name, e->msg);
	become_inactive(n, op->failed.msg[0] ? op->failed.msg : "an earlier daemon ended during the operation");
	answer(op, -EIO, NULL, &op->failed);
}

/* Run "down" for a network that did not become active. op: the waiting callers, and the error for them. */
static void undo(struct network *n, const struct network_operation *op, const struct err *failed)
{
	struct network_operation down = { .verb = "down", .ended = undone, .done = op->done, .opaque = op->opaque, .failed = *failed };
	struct err e;

	if (program_run(n, &down, n->live, &e) < 0)
		undone(n, &down, -EIO, NULL, &e);
}

/* ---- start ---- */

static void started(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	struct err failed;

	if (r < 0) {
		failed = *e;
		/* The program removes what it made, unless it was killed. */
		if (r == -EIO || r == -ETIMEDOUT) {
			undo(n, op, &failed);
			return;
		}
		become_inactive(n, failed.msg);
		answer(op, r, NULL, &failed);
		return;
	}
	n->state = NETWORK_ACTIVE;
	/* The next daemon would stop a network that is starting, under its running VMs. */
	if (network_save(n, &failed) < 0) {
		n->state = NETWORK_STARTING; /* so the starts that wait for it go on waiting */
		undo(n, op, &failed);
		return;
	}
	network_state_emit(n, NULL);
	notes_log(n, value);
	answer(op, 0, value, NULL);
}

static int live_make(struct network *n, bool transient, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;

	if (transient) {
		n->live = STEAL_PTR(n->def);
		return 0;
	}
	o = network_definition_to_json(n->def);
	return network_definition_parse(o, &n->live, e);
}

/* Nothing was begun. Frees a transient network. */
static void start_give_up(struct network *n, bool transient)
{
	n->state = NETWORK_INACTIVE;
	save_or_warn(n);
	if (transient)
		network_remove(n);
	else
		network_definition_free(STEAL_PTR(n->live));
}

static void completed(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	if (!r)
		notes_log(n, value);
	answer(op, r, value, e);
}

/* The log has the first failure only. */
static void repair_failed(struct network *n, const char *what, const struct err *e)
{
	if (network_retry_later(n, network_check_parts))
		log_error("network", "network '%s' %s, which is tried again, at least once a minute: %s", network_any(n)->name, what, e->msg);
}

static void repair_succeeded(struct network *n)
{
	if (network_retry_end(n))
		log_info("network", "network '%s' is complete again", network_any(n)->name);
}

static void repaired(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	(void)op;
	if (r < 0) {
		repair_failed(n, "is incomplete and cannot be repaired", e);
	} else {
		repair_succeeded(n);
		notes_log(n, value);
	}
}

/* Handle the answer of `check` about an active network. */
static void repair_checked(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	const struct network_operation up = { .verb = "up", .ended = completed, .done = op->done, .opaque = op->opaque };
	struct err own;

	if (!r && js_get_bool(value, "complete", true))
		r = err_set(&own, -EPERM, ERR_WRONG_STATE, "network '%s' is already active", network_any(n)->name);
	else if (!r)
		r = program_run(n, &up, n->live, &own);
	else
		own = *e;
	if (r < 0)
		answer(op, r, NULL, &own);
}

/* Make the parts of an active network that are missing: as when the host has got a default route since, or another
 * firewall was loaded anew. */
static int network_repair(struct network *n, network_done *done, void *opaque, struct err *e)
{
	const struct network_operation check = { .verb = "check", .ended = repair_checked, .done = done, .opaque = opaque };

	check_end(n);
	return program_run(n, &check, n->live, e);
}

static void check_ended(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	const struct network_operation up = { .verb = "up", .ended = repaired };
	struct err own;

	(void)op;
	if (r < 0) {
		repair_failed(n, "cannot be checked", e);
	} else if (js_get_bool(value, "complete", true)) {
		repair_succeeded(n);
	} else if (!network_retry_waits(n)) {
		log_info("network", "network '%s': parts are missing, and are made again: %s",
			network_any(n)->name, json_object_to_json_string(js_get(value, "missing")));
		if (program_run(n, &up, n->live, &own) < 0)
			repaired(n, NULL, -EIO, NULL, &own);
	}
}

bool network_check_parts(struct network *n)
{
	const struct network_operation check = { .verb = "check", .ended = check_ended };
	struct err e;

	if (n->operation)
		return false;
	if (n->state == NETWORK_ACTIVE && program_run(n, &check, n->live, &e) < 0)
		repair_failed(n, "cannot be checked", &e);
	return true;
}

int network_start(struct network *n, bool transient, network_done *done, void *opaque, struct err *e)
{
	const struct network_operation up = { .verb = "up", .ended = started, .done = done, .opaque = opaque };
	int r = check_free(n, e);

	if (!r && n->state == NETWORK_ACTIVE)
		return network_repair(n, done, opaque, e);
	if (!r)
		r = live_make(n, transient, e);
	if (r < 0)
		return r;
	/* Stored before anything is made: if the daemon is killed, the next one removes the parts. */
	n->state = NETWORK_STARTING;
	n->was_lost = false;
	r = network_save(n, e);
	if (!r)
		r = program_run(n, &up, n->live, e);
	if (r < 0)
		start_give_up(n, transient);
	return r;
}

/* ---- stop ---- */

/* The network stays active. Parts of it may be gone, or were missing before. */
static void stop_give_up(struct network *n)
{
	n->state = NETWORK_ACTIVE;
	save_or_warn(n);
	network_check_parts(n);
}

static void stopped(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	struct err failed;

	if (r < 0) {
		failed = *e;
		stop_give_up(n);
		answer(op, r, NULL, &failed);
		return;
	}
	become_inactive(n, NULL);
	answer(op, 0, value, NULL);
}

int network_stop(struct network *n, network_done *done, void *opaque, struct err *e)
{
	const struct network_operation down = { .verb = "down", .ended = stopped, .done = done, .opaque = opaque };
	const char *name = network_any(n)->name;
	char users[320];
	int r = check_free(n, e);

	if (!r && n->state != NETWORK_ACTIVE)
		r = err_set(e, -EPERM, ERR_WRONG_STATE, "network '%s' is not active", name);
	if (!r && network_users_print(n, users, sizeof(users)))
		r = err_set(e, -EBUSY, ERR_BUSY, "network '%s' is in use by the running VMs %s; shut them down first", name, users);
	if (r < 0)
		return r;
	check_end(n);
	n->state = NETWORK_STOPPING;
	r = network_save(n, e);
	if (!r)
		r = program_run(n, &down, n->live, e);
	if (r < 0)
		stop_give_up(n);
	return r;
}

/* ---- update, leases ---- */

static void update_over(struct network *n, const struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	if (op->ended_check)
		network_check_parts(n);
	answer(op, r, value, e);
}

static void update_undone(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	(void)value;
	if (r < 0)
		log_error("network", "network '%s': parts of a failed update may be left, until it is stopped and started: %s", network_any(n)->name,
			e->msg);
	update_over(n, op, -EIO, NULL, &op->failed);
}

static void rules_undo(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	struct network_operation up = *op;
	struct err own;

	up.verb = "up";
	up.ended = update_undone;
	if (r < 0)
		update_undone(n, op, r, value, e);
	else if ((r = program_run(n, &up, n->live, &own)) < 0)
		update_undone(n, op, r, NULL, &own);
}

/* Return whether cairn-net refused the update, which it does before any change. */
static bool is_refusal(const struct network_operation *op, int r, const struct err *e)
{
	return r < 0 && !strcmp(op->verb, "update") && (e->cls == ERR_WRONG_STATE || e->cls == ERR_EXISTS || e->cls == ERR_INVALID);
}

/* Update the network to what it was before; after "up", its egress rules, too. */
static void update_undo(struct network *n, const struct network_operation *op, const struct err *failed)
{
	struct network_operation undo = { .verb = "update", .ended = strcmp(op->verb, "up") ? update_undone : rules_undo, .ended_check = op->ended_check,
		.done = op->done, .opaque = op->opaque, .failed = *failed };
	struct err e;
	int r = program_run(n, &undo, n->live, &e);

	if (r < 0)
		update_undone(n, &undo, r, NULL, &e);
}

static void updated(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	struct network_definition *before = n->live;
	bool refused = is_refusal(op, r, e);
	struct err failed;

	if (!r) {
		n->live = op->next;
		r = network_save(n, &failed);
		e = &failed;
	}
	if (r < 0) {
		failed = *e;
		n->live = before;
		network_definition_free(op->next);
		if (refused)
			update_over(n, op, r, NULL, &failed);
		else
			update_undo(n, op, &failed);
		return;
	}
	network_definition_free(before);
	notes_log(n, value);
	network_emit(n, EVENT_NETWORK_DEFINED, NULL);
	update_over(n, op, 0, value, NULL);
}

/* Change the egress rules, after DHCP and DNS: "up" replaces all rules in one transaction. */
static void rules_update(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	struct network_operation up = *op;
	struct err own;

	up.verb = "up";
	up.ended = updated;
	if (r < 0) {
		updated(n, op, r, value, e);
		return;
	}
	r = program_run(n, &up, op->next, &own);
	if (r < 0)
		updated(n, op, r, NULL, &own);
}

static bool egress_is_same(const struct network_definition *a, const struct network_definition *b)
{
	CLEANUP_FREE char *x = a->egress ? egress_print(a->egress) : NULL, *y = b->egress ? egress_print(b->egress) : NULL;

	return x && y ? !strcmp(x, y) : !a->egress && !b->egress;
}

int network_update(struct network *n, struct network_definition *d, network_done *done, void *opaque, struct err *e)
{
	struct network_operation update = { .verb = "update", .ended = updated, .next = d, .done = done, .opaque = opaque };
	int r = check_free(n, e);

	if (n->live && !egress_is_same(n->live, d))
		update.ended = rules_update;
	if (!r && n->state != NETWORK_ACTIVE)
		r = err_set(e, -EPERM, ERR_WRONG_STATE, "network '%s' is not active", network_any(n)->name);
	if (r < 0) {
		network_definition_free(d);
		return r;
	}
	update.ended_check = check_end(n);
	r = program_run(n, &update, d, e);
	if (r < 0 && update.ended_check)
		network_check_parts(n);
	if (r < 0)
		network_definition_free(d);
	return r;
}

/* A question, which changes nothing. It runs in parallel with operations and other questions, so users who may only
 * view delay no admin. */
struct network_query {
	struct network_query *next;
	const char *verb;
	struct network *network;
	struct network_process *process;
	network_done *done;
	void *opaque;
};

static void query_done(void *opaque, int r, struct json_object *value, const struct err *e)
{
	struct network_query *q = opaque, **at = &q->network->queries;

	while (*at != q)
		at = &(*at)->next;
	*at = q->next;
	q->done(q->opaque, r, value, e);
	free(q);
}

void network_queries_end(struct network *n, const struct err *why)
{
	struct network_query *q;

	while ((q = n->queries)) {
		n->queries = q->next;
		network_process_free(q->process);
		if (why)
			q->done(q->opaque, -ENOENT, NULL, why);
		free(q);
	}
}

int network_query(struct network *n, const char *verb, struct json_object *part, network_done *done, void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *request = NULL;
	struct network_query *q;
	unsigned count = 0;
	int r = 0;

	for (q = n->queries; q; q = q->next)
		count++;
	if (count >= QUERIES_MAX)
		return err_set(e, -EBUSY, ERR_BUSY, "network '%s': %u questions about it are under way; try again", network_any(n)->name,
			count);
	r = network_request_make(n, verb, n->live ? n->live : n->def, &request, e);
	if (r < 0)
		return r;
	if (part)
		js_put(request, verb, json_object_get(part));
	q = must_alloc(malloc(sizeof(*q)));
	*q = (struct network_query){ n->queries, verb, n, NULL, done, opaque };
	r = network_process_start(n->host->loop, n->host->paths->net_program, request, TIMEOUT_NS, query_done, q, &q->process, e);
	if (r < 0)
		free(q);
	else
		n->queries = q;
	return r;
}

bool network_query_runs(const struct network *n, const char *verb)
{
	const struct network_query *q = n->queries;

	while (q && strcmp(q->verb, verb) != 0)
		q = q->next;
	return q;
}

/* ---- after a restart of the daemon ---- */

static void checked(struct network *n, struct network_operation *op, int r, struct json_object *value, const struct err *e)
{
	const struct network_operation up = { .verb = "up", .ended = repaired }, nobody = { .verb = "down" };
	struct err own;

	(void)op;
	if (r < 0) {
		repair_failed(n, "cannot be checked, and counts as active", e);
	} else if (!js_get_bool(value, "active", false)) {
		n->was_lost = n->def;
		err_set(&own, -ENOENT, ERR_NOT_FOUND, "it was gone when the daemon started");
		undo(n, &nobody, &own); /* without the bridge, its servers and rules may still be there */
	} else if (!js_get_bool(value, "complete", true)) {
		log_warn("network", "network '%s': parts are missing and are made again", network_any(n)->name);
		if (program_run(n, &up, n->live, &own) < 0)
			repaired(n, NULL, -EIO, NULL, &own);
	}
}

static void take_back(struct network *n)
{
	const struct network_operation check = { .verb = "check", .ended = checked };
	const struct network_operation nobody = { .verb = "down" };
	struct err e = { .cls = ERR_GENERIC };

	if (n->state == NETWORK_STARTING || n->state == NETWORK_STOPPING)
		undo(n, &nobody, &e);
	else if (n->state == NETWORK_ACTIVE && program_run(n, &check, n->live, &e) < 0)
		checked(n, NULL, -EIO, NULL, &e);
}

static bool any_is_busy(struct vm_host *host)
{
	struct network *n;

	for (size_t i = 0; (n = network_at(host, i)); i++)
		if (n->operation)
			return true;
	return false;
}

static void wait_for_all(struct vm_host *host, uint64_t until_ns)
{
	uint64_t now;

	while (any_is_busy(host) && (now = loop_now_ns()) < until_ns)
		loop_run_once(host->loop, until_ns - now);
}

/* A failure is in the log, and in an event (become_inactive()). */
static void autostart(struct network *n)
{
	struct err e;

	if (n->autostart && n->state == NETWORK_INACTIVE && (n->host->new_boot || n->was_lost) &&
		network_start(n, false, NULL, NULL, &e) < 0)
		log_error("network", "network '%s' cannot be started: %s", network_any(n)->name, e.msg);
}

void networks_take_back(struct vm_host *host)
{
	uint64_t until_ns = loop_now_ns() + TAKE_BACK_TIMEOUT_NS;
	struct network *n;

	/* Iterate backwards: a transient network that is gone is removed from the list. */
	for (size_t i = networks_count(host); i--;)
		take_back(network_at(host, i));
	wait_for_all(host, until_ns);
	for (size_t i = 0; (n = network_at(host, i)); i++)
		autostart(n);
	wait_for_all(host, until_ns);
}
