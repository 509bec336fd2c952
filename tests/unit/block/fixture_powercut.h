/* fixture_powercut: record what the engine asks of the file, cut the power at points of that record. */
#ifndef CAIRN_TESTS_FIXTURE_POWERCUT_H
#define CAIRN_TESTS_FIXTURE_POWERCUT_H

#include "fixture_block.h"

/* create: a command that makes "img", of 1 MiB. moves: the refcount table has to end up
 * elsewhere. snapshots: they are made, deleted and applied meanwhile. */
void powercut(const char *create, unsigned seed, bool moves, bool snapshots);

#endif
