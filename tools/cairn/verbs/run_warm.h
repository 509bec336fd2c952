/* run_warm: the saved state of a booted guest, from which `cairn run ... -- COMMAND` begins (tools/cairn/warm_state.h).
 * If a state cannot be used, the guest boots. */
#ifndef CAIRN_TOOLS_VERBS_RUN_WARM_H
#define CAIRN_TOOLS_VERBS_RUN_WARM_H

#include <stdbool.h>
#include <stdint.h>

struct cli;
struct config;
struct guest_link;
struct run_definition;
struct warm_key;

struct run_warm {
	struct warm_key *key; /* NULL: the guest boots, and leaves no state */
	int state;	      /* fd; -1: none, so the guest boots */
	bool verbose;	      /* print notes */
	bool lists;	      /* the state lacks the list of the pages that a guest touches first: make it (snapshot/first_pages.h) */
	int channel;	      /* with lists: to the VM's process; -1: none */
	int vm_end;	      /* with lists: pidfd of that; borrowed */
	uint64_t deadline_ns; /* with lists: of the run */
};

#define RUN_WARM_NONE { .state = -1, .channel = -1, .deadline_ns = UINT64_MAX }

/* Look for a state. Call it before the agent is in the initramfs.
 * root: as for initrd_agent_add(). program: the VM process's. w: initialised by RUN_WARM_NONE. */
void run_warm_find(struct run_warm *w, struct cli *c, const struct run_definition *d, const struct config *config, const char *root,
	const char *program);
void run_warm_done(struct run_warm *w);
/* Let the VM begin from the state. Returns false, after a note, if that is not possible. */
bool run_warm_use(struct run_warm *w, struct config *config);
/* Let later runs map the pages that the guest has touched so far. opaque: a struct run_warm with `lists`. */
void run_warm_list(void *opaque);
/* Check the state while the VM starts. Returns whether it is whole. */
bool run_warm_check(const struct run_warm *w);
/* Drop a state that did not work: the guest boots, and stores another one. */
void run_warm_drop(struct run_warm *w, const char *why);
/* Save the state of a guest that has booted.
 * channel: to the VM process. vm_end: pidfd of that. link: to the agent, which has no program; it is closed.
 * Returns whether there is a state, so that this guest has to be renewed like the others. */
bool run_warm_save(const struct run_warm *w, int channel, int vm_end, struct guest_link *link, uint64_t deadline_ns);

#endif
