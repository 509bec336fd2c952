/* alert_options: the options of the verbs about thresholds and web hooks. Only table.c includes it. */
#ifndef CAIRN_TOOLS_VERBS_ALERT_OPTIONS_H
#define CAIRN_TOOLS_VERBS_ALERT_OPTIONS_H

#include "tools/cairn/verbs/option_words.h"

static const struct verb_option threshold_options[] = {
	{ "above", "VALUE", FROM_SCHEMA("above") },
	{ "below", "VALUE", FROM_SCHEMA("below") },
	{ "for", "TIME", "raise and clear it after this time without a break, such as 5m; 0: at once [1m]" },
	{ "then", FROM_SCHEMA("then"), FROM_SCHEMA("then") },
	{ "name", "NAME", FROM_SCHEMA("name") }, END };
static const struct verb_option web_hook_options[] = {
	{ "url", "URL", FROM_SCHEMA("url") },
	{ "vm", "VM", FROM_SCHEMA("vm") },
	{ "event", "EVENTS", "send these events, separated by commas: started, stopped, crashed, snapshot, schedule, threshold, disk-space [all]" },
	{ "secret-file", "FILE", "take the key of the signatures from the first line; -: of standard input [a new key, which is printed]" },
	{ "private", NULL, FROM_SCHEMA("private") }, END };
static const struct verb_option web_hook_vm_options[] = { { "vm", "VM", FROM_SCHEMA("vm") }, END };

#endif
