/* format: qcow2 on disk. Source: QEMU's docs/interop/qcow2.txt. All numbers are big-endian.
 *
 * Header                                    Extensions, from header_length on, each
 *   0  u32  magic "QFI\xfb"                   0  u32  type      (0 ends the list)
 *   4  u32  version, 2 or 3                   4  u32  length
 *   8  u64  backing name's offset             8  data, padded to 8
 *  16  u32  backing name's length           Types: 0xe2792aca backing format, 0x6803f857
 *  20  u32  cluster_bits                      feature names, 0x23852875 bitmaps, 0x0537be77
 *  24  u64  size in bytes                     encryption, 0x44415441 data file's name,
 *  32  u32  encryption method                 0x43524e50 pin, 0x43524e55 unused: its bitmaps
 *  36  u32  L1 entries                      Refcount table: u64 each, bits 9..63 the offset of
 *  40  u64  L1 offset                         a block, 0 absent. Block: one cluster of refcounts
 *  48  u64  refcount table's offset           of 2^order bits; below 8 bits the lowest first.
 *  56  u32  refcount table's clusters
 *  60  u32  snapshots                       L1 entry: bits 9..55 offset, 63 COPIED
 *  64  u64  snapshot table's offset         L2 entry: 63 COPIED, 62 COMPRESSED, else
 *  72  u64  incompatible features  (v3)       bits 9..55 offset, 0 ZERO (v3, not extended)
 *  80  u64  compatible             (v3)     Compressed, x = 62 - (cluster_bits - 8):
 *  88  u64  autoclear              (v3)       bits 0..x-1 offset, x..61 further sectors
 *  96  u32  refcount order         (v3)     Extended L2: 16 bytes, the second u64 has
 * 100  u32  header_length          (v3)       bits 0..31 allocated, 32..63 zero
 * 104  u8   compression type       (v3)
 *
 * Snapshot, 8-aligned: 0 u64 L1 offset, 8 u32 L1 entries, 12 u16 id length, 14 u16 name length,
 * 16 u32 s, 20 u32 ns, 24 u64 vm clock ns, 32 u32 vm state bytes, 36 u32 extra length, then
 * extra, id, name.
 *
 * Extra data: 0 u64 VM state bytes, 8 u64 disk bytes, 16 u64 icount, then Cairn's. A pin's:
 * 0 u32 "CRP1", 4 u8[16] id, 20 u32 CRC32C of the 20 bytes.
 *
 * Extension "bitmaps": 0 u32 number of bitmaps, 4 u32 0, 8 u64 bytes of the directory, 16 u64 its offset.
 * Directory entry, 8-aligned: 0 u64 table offset, 8 u32 table entries, 12 u32 flags (0 in use, 1 auto), 16 u8 type,
 * 17 u8 log2 of the granularity, 18 u16 name length, 20 u32 extra length, then extra, name.
 * Bitmap table: u64 each, bits 9..55 the offset of a cluster of bits, lowest first; without an offset, bit 0 says
 * whether all its bits are set.
 *
 * Extension "pin": 0 u32 version 1, 4 u32 cluster_bits of the source, 8 u8[16] the pin's id, 24 u64
 * disk bytes, 32 u64 L1 offset, 40 u32 L1 entries, 44 u32 CRC32C of the L1 with COPIED cleared,
 * 48 u32 0, 52 u32 CRC32C of the 52 bytes. */
#ifndef CAIRN_BLOCK_QCOW2_FORMAT_H
#define CAIRN_BLOCK_QCOW2_FORMAT_H

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_V2_HEADER_BYTES 72u
#define QCOW2_V3_HEADER_MIN 104u
#define QCOW2_V3_HEADER_BYTES 112u /* the length that this engine writes, as QEMU does */

enum qcow2_header_at {
	QCOW2_AT_MAGIC = 0,
	QCOW2_AT_VERSION = 4,
	QCOW2_AT_BACKING_OFFSET = 8,
	QCOW2_AT_BACKING_LEN = 16,
	QCOW2_AT_CLUSTER_BITS = 20,
	QCOW2_AT_SIZE = 24,
	QCOW2_AT_CRYPT = 32,
	QCOW2_AT_L1_SIZE = 36,
	QCOW2_AT_L1_OFFSET = 40,
	QCOW2_AT_REFTABLE_OFFSET = 48,
	QCOW2_AT_REFTABLE_CLUSTERS = 56,
	QCOW2_AT_NB_SNAPSHOTS = 60,
	QCOW2_AT_SNAPSHOTS_OFFSET = 64,
	QCOW2_AT_INCOMPATIBLE = 72,
	QCOW2_AT_COMPATIBLE = 80,
	QCOW2_AT_AUTOCLEAR = 88,
	QCOW2_AT_REFCOUNT_ORDER = 96,
	QCOW2_AT_HEADER_LENGTH = 100,
	QCOW2_AT_COMPRESSION = 104,
};

#define QCOW2_INCOMPAT_DIRTY (1ULL << 0)
#define QCOW2_INCOMPAT_CORRUPT (1ULL << 1)
#define QCOW2_INCOMPAT_DATA_FILE (1ULL << 2)
#define QCOW2_INCOMPAT_COMPRESSION (1ULL << 3)
#define QCOW2_INCOMPAT_EXTENDED_L2 (1ULL << 4)
#define QCOW2_INCOMPAT_KNOWN 0x1fULL
#define QCOW2_COMPAT_LAZY_REFCOUNTS (1ULL << 0)
#define QCOW2_AUTOCLEAR_BITMAPS (1ULL << 0)
#define QCOW2_AUTOCLEAR_RAW_DATA (1ULL << 1)

#define QCOW2_EXT_END 0u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES 0x6803f857u
#define QCOW2_EXT_BITMAPS 0x23852875u
#define QCOW2_EXT_CRYPTO 0x0537be77u
#define QCOW2_EXT_DATA_FILE 0x44415441u
#define QCOW2_EXT_PIN 0x43524e50u
#define QCOW2_EXT_UNUSED 0x43524e55u
#define QCOW2_PIN_EXT_BYTES 56u

#define QCOW2_COMPRESSION_ZLIB 0
#define QCOW2_COMPRESSION_ZSTD 1

#define QCOW2_COPIED (1ULL << 63)
#define QCOW2_COMPRESSED (1ULL << 62)
#define QCOW2_ZERO (1ULL << 0)
#define QCOW2_OFFSET_MASK 0x00fffffffffffe00ULL
#define QCOW2_L1_RESERVED 0x7f000000000001ffULL
#define QCOW2_L2_RESERVED 0x3f000000000001feULL
#define QCOW2_REFTABLE_RESERVED 0x1ffULL

/* Limits of QEMU 7.2. */
#define QCOW2_CLUSTER_BITS_MIN 9u
#define QCOW2_CLUSTER_BITS_MAX 21u
#define QCOW2_L1_BYTES_MAX (32u << 20)
#define QCOW2_REFTABLE_BYTES_MAX (8u << 20)
#define QCOW2_SNAPSHOTS_MAX 65536u
#define QCOW2_SNAPSHOT_TABLE_BYTES_MAX (64u << 20)
#define QCOW2_SNAPSHOT_EXTRA_MAX 1024u
#define QCOW2_SNAPSHOT_HEADER_BYTES 40u
/* Offsets of the lengths of a snapshot entry's parts. */
#define QCOW2_SNAPSHOT_AT_ID_LEN 12u
#define QCOW2_SNAPSHOT_AT_NAME_LEN 14u
#define QCOW2_SNAPSHOT_AT_EXTRA_LEN 36u
#define QCOW2_SNAPSHOT_QEMU_BYTES 24u /* QEMU's part of the extra data */
#define QCOW2_SNAPSHOT_SIZES_BYTES 16u /* the sizes of the VM state and of the disk, which version 3 needs */
#define QCOW2_BACKING_NAME_MAX 1023u
#define QCOW2_BITMAPS_EXT_BYTES 24u
#define QCOW2_BITMAPS_MAX 65535u
#define QCOW2_BITMAP_DIRECTORY_BYTES_MAX (1024 * QCOW2_BITMAPS_MAX)
#define QCOW2_BITMAP_ENTRY_BYTES 24u
#define QCOW2_BITMAP_AT_FLAGS 12u
#define QCOW2_BITMAP_NAME_MAX 1023u
#define QCOW2_BITMAP_BYTES_MAX (512u << 20) /* of one bitmap's clusters */
#define QCOW2_BITMAP_GRANULARITY_BITS_MIN 9u
#define QCOW2_BITMAP_GRANULARITY_BITS_MAX 31u
#define QCOW2_BITMAP_IN_USE (1u << 0) /* a program has not stored the bitmap's content: it is unknown */
#define QCOW2_BITMAP_AUTO (1u << 1)   /* the bitmap is enabled: it records all writes */
#define QCOW2_BITMAP_FLAGS_KNOWN 3u
#define QCOW2_BITMAP_TYPE_DIRTY 1u
#define QCOW2_BITMAP_TABLE_RESERVED 0xff000000000001feULL
#define QCOW2_BITMAP_ALL_ONES (1ULL << 0)
#define QCOW2_SUBCLUSTERS 32u
/* All clusters lie below this offset. */
#define QCOW2_OFFSET_END (1ULL << 56)

#endif
