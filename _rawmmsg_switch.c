/* What a switch looks at in the frames of a batch, for rawmmsg.bridge. */

#include "_rawmmsg.h"

#include <string.h>

#include <linux/if_ether.h>

/* ---- Keys --------------------------------------------------------------- */

/* What decides where a frame goes: the two addresses, and the id of its
   802.1Q tag. */
struct key {
    unsigned char addresses[2 * ETH_ALEN];
    uint16_t tag; /* in host order; NO_TAG: the frame is untagged */
};

_Static_assert(sizeof(struct key) == 14, "no padding");

#define NO_TAG 0xffff
#define TAG_ID 0x0fff

/* Slots of the hash table: more than twice as many as there are keys. */
#define MOST_KEYS 1024
#define SLOTS 4096

/* The distinct keys of a batch. A local of the call. */
struct keys {
    struct key found[MOST_KEYS];
    size_t count;
    uint16_t slots[SLOTS]; /* 1 + the number of a key, or 0 */
};

static void
read_key(const unsigned char *frame, size_t length, struct key *key)
{
    uint16_t type = load_be16(frame + 2 * ETH_ALEN);

    memcpy(key->addresses, frame, sizeof(key->addresses));
    key->tag = type == ETH_P_8021Q && length >= ETH_HLEN + TAG_SIZE
                   ? load_be16(frame + ETH_HLEN) & TAG_ID
                   : NO_TAG;
}

/* The addresses of one network card are often close to each other, so all bits
   count (a step of FNV-1a for each word). */
static size_t
slot_of(const struct key *key)
{
    uint64_t hash = 0xcbf29ce484222325, word = 0;

    memcpy(&word, key, sizeof(word));
    hash = (hash ^ word) * 0x100000001b3;
    hash ^= hash >> 32;
    word = 0;
    memcpy(&word, (const char *)key + sizeof(word),
           sizeof(*key) - sizeof(word));
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return (size_t)(hash >> 40) % SLOTS;
}

/* Returns the number of a key, which may be new. */
static uint16_t
number_of(struct keys *k, const struct key *key)
{
    size_t slot = slot_of(key);

    while (k->slots[slot] > 0) {
        if (memcmp(&k->found[k->slots[slot] - 1], key, sizeof(*key)) == 0) {
            return k->slots[slot] - 1;
        }
        slot = (slot + 1) % SLOTS;
    }
    k->found[k->count] = *key;
    k->slots[slot] = (uint16_t)++k->count;
    return (uint16_t)(k->count - 1);
}

/* Numbers the frames of a table by their keys. Runs without the GIL. */
static void
number_frames(struct keys *k, const struct frame_table *t, uint16_t *numbers)
{
    struct key key, last = {.tag = 0};
    uint16_t number = 0;
    size_t length, i;

    k->count = 0;
    memset(k->slots, 0, sizeof(k->slots));
    for (i = 0; i < t->count; i++) {
        const struct iovec *part = &t->parts[2 * i + 1];

        length = atomic_load_explicit(&t->lengths[i], memory_order_relaxed);
        length = length < part->iov_len ? length : part->iov_len;
        memset(&key, 0, sizeof(key));
        if (length >= ETH_HLEN) {
            read_key(part->iov_base, length, &key);
        }
        if (k->count == 0 || memcmp(&key, &last, sizeof(key)) != 0) {
            number = number_of(k, &key);
            last = key;
        }
        numbers[i] = number;
    }
}
