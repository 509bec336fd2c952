#include "block/zeroes.h"
#include "base/bytes.h"
#include "block/block.h"

void block_detect_zeroes(struct block_req *r, enum block_zeroes how)
{
	if (how == BLOCK_ZEROES_OFF || r->op != BLOCK_WRITE)
		return;
	for (unsigned i = 0; i < r->niov; i++)
		if (r->iov[i].iov_len && !bytes_are_zero(r->iov[i].iov_base, r->iov[i].iov_len))
			return;
	r->op = BLOCK_WRITE_ZEROES;
	if (how == BLOCK_ZEROES_UNMAP)
		r->flags |= BLOCK_REQ_MAY_UNMAP;
}
