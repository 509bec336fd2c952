/* access_options: the options of the verbs about permissions, quotas and the audit log. Only table.c includes it. */
#ifndef CAIRN_TOOLS_VERBS_ACCESS_OPTIONS_H
#define CAIRN_TOOLS_VERBS_ACCESS_OPTIONS_H

#include "tools/cairn/verbs/option_words.h"

static const struct verb_option permission_options[] = {
	{ "user", "USER", "select a user, by name or uid" },
	{ "group", "GROUP", "select a group, by name or gid" }, END };
static const struct verb_option revoke_options[] = {
	{ "user", "USER", "select a user, by name or uid" },
	{ "group", "GROUP", "select a group, by name or gid" },
	{ "role", FROM_SCHEMA("role"), FROM_SCHEMA("role") }, END };
static const struct verb_option review_options[] = {
	{ "unused-for", "DAYS", "show only roles that nobody used for DAYS days" }, END };
static const struct verb_option role_ask_options[] = {
	{ "reason", "TEXT", "tell this reason to the admins" }, END };
static const struct verb_option requests_options[] = {
	{ "all", NULL, "also list requests that have ended, for 30 days" },
	{ "wait", NULL, "wait until the request has ended; exit with 0 if its act was done" }, END };
static const struct verb_option answer_options[] = {
	{ "reason", "TEXT", "tell this reason to the asker" }, END };
static const struct verb_option rule_options[] = {
	{ "acts", "ACT,...", "let these acts wait: destroy, shutdown, reset, undefine, snapshot-revert, snapshot-delete, export, dump, clone" },
	{ "user", "USER", "bind this user, by name or uid [all users]" },
	{ "group", "GROUP", "bind the members of this group, by name or gid [all users]" },
	{ "expire", "TIME", "set how long a request waits, such as 8h or 2d [1d]" },
	{ "remove", NULL, "remove the rule for this VM and this user or group" }, END };
static const struct verb_option quota_options[] = {
	{ "user", "USER", "select a user, by name or uid" },
	{ "group", "GROUP", "select a group, by name or gid" },
	{ "default", NULL, "select the quota of each user without a quota of its own" },
	{ "vms", "N", "limit the number of defined VMs; none: no limit [as now]" },
	{ "running", "N", "limit the number of running VMs [as now]" },
	{ "memory", "SIZE", "limit the memory of the running VMs, such as 8G [as now]" },
	{ "vcpus", "N", "limit the number of vCPUs of the running VMs [as now]" },
	{ "disk", "SIZE", "limit the bytes of the images that Cairn makes for the VMs [as now]" },
	{ "snapshots", "N", "limit the number of snapshots of the VMs [as now]" },
	{ "remove", NULL, "remove the quota" }, END };
static const struct verb_option audit_options[] = {
	{ "since", "TIME", "show only calls since TIME: 90s, 30m, 2h or 7d ago, or YYYY-MM-DD [HH:MM[:SS]]" },
	{ "user", "USER", FROM_SCHEMA("uid") },
	{ "vm", "VM", FROM_SCHEMA("vm") }, END };


#endif
