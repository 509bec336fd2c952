/* definition_fit: whether two definitions give the guest the same machine. */
#ifndef CAIRN_API_DEFINITION_DEFINITION_FIT_H
#define CAIRN_API_DEFINITION_DEFINITION_FIT_H

struct definition;
struct err;

/* Check whether a state saved with the definition `then` fits the definition `now`. Returns 0; -errno: the error names
 * the difference. */
int definition_check_fits(const struct definition *then, const struct definition *now, struct err *e);

#endif
