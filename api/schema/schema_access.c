/* Arguments and results of the commands about permissions, approval and quotas. */
#include "api/schema/schema_internal.h"

#define FIELD_USER { "user", FIELD_INT, OPTIONAL, "uid; give user or group" }
#define FIELD_GROUP { "group", FIELD_INT, OPTIONAL, "gid; give user or group" }
const struct field grant_args[] = { FIELD_USER, FIELD_GROUP,
	{ "role", FIELD_ROLE, REQUIRED, "role; for one VM viewer, guest, operator or owner; for all VMs also creator, beside another role" },
	{ "vm", FIELD_STRING, OPTIONAL, "give the role for this VM only [all VMs]" }, END };
const struct field grant_returns[] = {
	{ "warnings", LIST_OF(FIELD_STRING), OPTIONAL, "sentences about consoles that could not be closed" }, END };
const struct field revoke_args[] = { FIELD_USER, FIELD_GROUP,
	{ "vm", FIELD_STRING, OPTIONAL, "remove the role for this VM [the role for all VMs]" },
	{ "role", FIELD_ROLE, OPTIONAL, "remove only this role [any; for all VMs also creator]" },
	END };
const struct field query_permissions_args[] = { { "from", FIELD_INT, OPTIONAL, "`next` of the previous page, or index of the first entry [0]" }, END };
const struct field query_permissions_returns[] = {
	{ "permissions", LIST_OF(FIELD_PERMISSION), REQUIRED, "the entries" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the next page, if there is one" }, END };
const struct field query_review_args[] = {
	{ "from", FIELD_INT, OPTIONAL, "`next` of the previous page, or index of the first entry [0]" },
	{ "unused-for", FIELD_INT, OPTIONAL, "show only the roles that were not used for so long, ns [0]" }, END };
const struct field query_review_returns[] = {
	{ "permissions", LIST_OF(FIELD_REVIEWED_PERMISSION), REQUIRED, "the entries" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the next page, if there is one; a page may have no entries although more follow" }, END };

const struct field approval_rule_args[] = {
	{ "acts", LIST_OF(FIELD_STRING), REQUIRED, "let these acts wait for the approval of another user, of destroy, shutdown, reset, undefine, snapshot-revert, "
		"snapshot-delete, export, dump and clone; none: remove the rule" },
	{ "vm", FIELD_STRING, OPTIONAL, "bind acts on this VM only [all VMs]" },
	{ "user", FIELD_INT, OPTIONAL, "uid; give user or group [all users]" },
	{ "group", FIELD_INT, OPTIONAL, "gid; give user or group [all users]" },
	{ "expire", FIELD_INT, OPTIONAL, "how long a request waits, ns [a day]" }, END };
const struct field approval_rules_args[] = {
	{ "after", FIELD_INT, OPTIONAL, "`next` of the previous page, or number of entries to leave out [0]" }, END };
const struct field approval_rules_returns[] = {
	{ "rules", LIST_OF(FIELD_APPROVAL_RULE), REQUIRED, "the rules" },
	{ "next", FIELD_INT, OPTIONAL, "`after` of the call for the next page, if there is one" },
	{ "unknown", FIELD_STRING, OPTIONAL, "why the rules could not be loaded; users other than root can then do none of the acts" }, END };
const struct field query_requests_args[] = {
	{ "id", FIELD_INT, OPTIONAL, "return only this request, also after its end" },
	{ "all", FIELD_BOOL, OPTIONAL, "also return requests that have ended, for 30 days [false]" },
	{ "after", FIELD_INT, OPTIONAL, "start the page after this number" }, END };
const struct field query_requests_returns[] = {
	{ "requests", LIST_OF(FIELD_REQUEST), REQUIRED, "the requests" },
	{ "next", FIELD_INT, OPTIONAL, "`after` of the call for the next page, if there is one; a page may have no entries although more follow" }, END };
const struct field request_permission_args[] = {
	{ "role", FIELD_ROLE, REQUIRED, "the role; for one VM viewer, guest, operator or owner" },
	{ "vm", FIELD_STRING, OPTIONAL, "ask for the role for this VM only [all VMs]" },
	{ "note", FIELD_STRING, OPTIONAL, "tell this reason to the admin, at most 256 bytes" }, END };
const struct field request_permission_returns[] = { { "request", FIELD_INT, REQUIRED, "number of the request" }, END };
const struct field request_answer_args[] = {
	{ "id", FIELD_INT, REQUIRED, "number of the request" },
	{ "reason", FIELD_STRING, OPTIONAL, "tell this reason to the asker, at most 256 bytes" }, END };
const struct field request_answer_returns[] = { { "state", FIELD_STRING, REQUIRED, "state of the request now, as in query-requests" }, END };
#define FIELDS_SUBJECT                                                                             \
	{ "user", FIELD_INT, OPTIONAL, "uid; give user, group or default" },                       \
	{ "group", FIELD_INT, OPTIONAL, "gid; give user, group or default" },                      \
	{ "default", FIELD_BOOL, OPTIONAL, "true: the quota of each user without a quota of its own" }
const struct field quota_set_args[] = { FIELDS_SUBJECT,
	{ "vms", FIELD_INT, OPTIONAL, "defined VMs [as now]; in each limit, -1: no limit" },
	{ "running", FIELD_INT, OPTIONAL, "running VMs [as now]" },
	{ "memory", FIELD_INT, OPTIONAL, "bytes of memory of the running VMs [as now]" },
	{ "vcpus", FIELD_INT, OPTIONAL, "vCPUs of the running VMs [as now]" },
	{ "disk", FIELD_INT, OPTIONAL, "bytes of the images that Cairn made for the VMs [as now]" },
	{ "snapshots", FIELD_INT, OPTIONAL, "snapshots of the VMs [as now]" }, END };
const struct field quota_remove_args[] = { FIELDS_SUBJECT, END };
const struct field query_quotas_args[] = { { "from", FIELD_INT, OPTIONAL, "`next` of the previous page, or index of the first entry [0]" }, END };
const struct field query_quotas_returns[] = {
	{ "quotas", LIST_OF(FIELD_QUOTA), REQUIRED,
		"the quotas. Users who are not admins see the default, their own entry and their groups" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the next page, if there is one; a page may have no entries although more follow" }, END };
