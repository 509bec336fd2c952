/* schema_internal: definitions that the tables of both sockets share. Only the files schema*.c include it. */
#ifndef CAIRN_API_SCHEMA_SCHEMA_INTERNAL_H
#define CAIRN_API_SCHEMA_SCHEMA_INTERNAL_H

#include "api/schema/schema.h"

#define OPTIONAL true
#define REQUIRED false
#define END { NULL, FIELD_ANY, false, NULL }
#define ANY_STATE VM_TRIGGER_COUNT

/* Of events, and of jobs. */
#define FIELDS_VM_NAME \
	{ "vm", FIELD_STRING, REQUIRED, "name of the VM" }, \
	{ VM_UUID_KEY, FIELD_STRING, OPTIONAL, "UUID of the VM, if known" }
#define FIELDS_JOB_VM \
	{ "vm", FIELD_STRING, OPTIONAL, "name of the VM; missing for a job on a volume" }, \
	{ VM_UUID_KEY, FIELD_STRING, OPTIONAL, "UUID of the VM, if known" }
/* agent-exec and agent-exec-output, in schema.c */
#define FIELDS_EXEC                                                                   \
	{ "arg", LIST_OF(FIELD_STRING), REQUIRED, "the program and its arguments" },  \
	{ "env", LIST_OF(FIELD_STRING), OPTIONAL, "variables, NAME=VALUE" },                    \
	{ "folder", FIELD_STRING, OPTIONAL, "working folder [/]" },                   \
	{ "input-data", FIELD_STRING, OPTIONAL, "standard input, base64 [none]" },    \
	{ "timeout", FIELD_INT, OPTIONAL, "kill the program after this many seconds [no limit]" }
/* The memory of a running VM, in schema.c */
#define FIELDS_MEMORY \
	{ "target", FIELD_INT, OPTIONAL, "memory for the guest, bytes, at most the VM's memory [no change]" }, \
	{ "period", FIELD_INT, OPTIONAL, "seconds between statistics of the guest; 0: none [no change]" }
#define DOC_SET_MEMORY \
	"change the memory that a running VM's balloon leaves to its guest, or how often the guest sends statistics; a new " \
	"start uses the definition again"
#define DOC_RECLAIM \
	"free the memory of a running VM that was not written since its last snapshot or revert; the guest's accesses bring " \
	"it back from the image"
#define DOC_DIRTY_RATE \
	"measure how fast a running VM's guest changes its memory, by samples; the answer comes at once, the result is " \
	"dirty-rate of vm-info and vm-stats"
#define FIELD_SAMPLE_PAGES { "sample-pages", FIELD_INT, OPTIONAL, \
	"pages to sample of each GiB of memory, 128 to 16384; in all at least 512 and at most 131072 [512]" }
static const struct field reclaim_returns[] = { { "freed", FIELD_INT, REQUIRED, "bytes" }, END };
#define FIELD_ACTUAL { "actual", FIELD_INT, REQUIRED, "memory of the guest, bytes" }
#define FIELD_BALLOON { "balloon", FIELD_BALLOON_FIGURES, OPTIONAL, "of a running VM with a balloon: its figures" }
#define FIELD_DIRTY \
	{ "dirty-rate", FIELD_DIRTY_RATE, OPTIONAL, "the last measurement of vm-calc-dirty-rate in this process" }
#define FIELD_DIRECT { "dev", FIELD_STRING, OPTIONAL, \
	"with macvtap: the link that the guests are on, in place of bridge" }, \
	{ "devs", LIST_OF(FIELD_STRING), OPTIONAL, "with several links for macvtap: their names, in place of dev" }

/* schema_web_hook.c */
extern const struct field web_hook_members[];
extern const struct field web_hook_set_args[];
extern const struct field web_hook_set_returns[];
extern const struct field web_hook_args[];
extern const struct field web_hook_test_returns[];
extern const struct field query_web_hooks_args[];
extern const struct field query_web_hooks_returns[];
/* schema_access.c */
extern const struct field grant_args[];
extern const struct field grant_returns[];
extern const struct field revoke_args[];
extern const struct field query_permissions_args[];
extern const struct field query_permissions_returns[];
extern const struct field query_review_args[];
extern const struct field query_review_returns[];
extern const struct field approval_rule_args[];
extern const struct field approval_rules_args[];
extern const struct field approval_rules_returns[];
extern const struct field query_requests_args[];
extern const struct field query_requests_returns[];
extern const struct field request_answer_args[];
extern const struct field request_permission_args[];
extern const struct field request_permission_returns[];
extern const struct field request_answer_returns[];
extern const struct field quota_set_args[];
extern const struct field quota_remove_args[];
extern const struct field query_quotas_args[];
extern const struct field query_quotas_returns[];

/* schema_object.c */
extern const struct field info_returns[];
extern const struct field job_entry[];
extern const struct field block_node[];

extern const struct field exec_output_args[];
extern const struct field exec_returns[];

#endif
