/* Arguments and results of the commands about web hooks. */
#include "api/schema/schema_internal.h"

#define FIELDS_WEB_HOOK                                                                                         \
	{ "vm", FIELD_STRING, OPTIONAL, "name or UUID of the VM to which the web hook belongs [none]" }, \
	{ "name", FIELD_STRING, REQUIRED, "name of the web hook" }
const struct field web_hook_set_args[] = { FIELDS_WEB_HOOK,
	{ "url", FIELD_STRING, REQUIRED, "https or http URL that gets the events, by POST" },
	{ "events", LIST_OF(FIELD_STRING), OPTIONAL, "words: started, stopped, crashed, snapshot, schedule, threshold, disk-space [all]" },
	{ "secret", FIELD_STRING, OPTIONAL, "key of the signatures, 24 to 256 characters; nothing shows it again [a new one]" },
	{ "private", FIELD_BOOL, OPTIONAL, "also reach addresses that are not public, such as those of this host; only admins may" }, END };
const struct field web_hook_set_returns[] = {
	{ "secret", FIELD_STRING, OPTIONAL, "the key, if the daemon has made it" }, END };
const struct field web_hook_args[] = { FIELDS_WEB_HOOK, END };
const struct field web_hook_test_returns[] = { { "outcome", FIELD_STRING, REQUIRED, "status of the receiver's answer" }, END };
const struct field query_web_hooks_args[] = {
	{ "after", FIELD_INT, OPTIONAL, "`next` of the previous page, or number of entries to leave out [0]" }, END };
const struct field query_web_hooks_returns[] = {
	{ "hooks", LIST_OF(FIELD_WEB_HOOK), REQUIRED, "the web hooks" },
	{ "next", FIELD_INT, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
const struct field web_hook_members[] = {
	{ "name", FIELD_STRING, REQUIRED, "its name" },
	{ "vm", FIELD_STRING, OPTIONAL, "name of the VM to which it belongs" },
	{ "url", FIELD_STRING, REQUIRED, "where the events go" },
	{ "events", LIST_OF(FIELD_STRING), REQUIRED, "words of its events" },
	{ "private", FIELD_BOOL, OPTIONAL, "true: it may reach addresses that are not public" },
	{ "uid", FIELD_INT, REQUIRED, "uid of its maker" },
	{ "waiting", FIELD_INT, REQUIRED, "number of events that wait" },
	{ "delivered", FIELD_INT, REQUIRED, "number of events that were delivered" },
	{ "failed", FIELD_INT, REQUIRED, "number of events that could not be delivered" },
	{ "dropped", FIELD_INT, REQUIRED, "number of events that were dropped because too many waited" },
	{ "last-try", FIELD_INT, OPTIONAL, "time of the last try: realtime, ns" },
	{ "last", FIELD_STRING, OPTIONAL, "its outcome" }, END };
