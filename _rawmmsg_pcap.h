/* Recordings: finds the packets in pcap and pcapng files, and writes what is
   before and behind a packet in such a file. These functions know nothing of
   Python.

   A file may come from a hostile sender, and another process may write to it
   while it is mapped. So each value that decides about memory is read once and
   then checked.

   The formats: pcap-savefile(5), and draft-ietf-opsawg-pcapng. */

#ifndef RAWMMSG_PCAP_H
#define RAWMMSG_PCAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Finding ------------------------------------------------------------ */

/* The type of a packet if the recording does not say which it is. */
#define UNKNOWN_TYPE 255

/* Where in `bytes` a packet is, and what the recording says of it. */
struct record {
    size_t start;
    uint32_t length;
    uint32_t wire_length;
    int64_t time_ns;   /* since the epoch; 0: no time was recorded */
    int32_t interface; /* its number in the whole recording */
    uint8_t
        packet_type; /* UNKNOWN_TYPE, or PACKET_HOST ... of linux/if_packet.h */
};

/* What finding needs to know of an interface. */
struct record_interface {
    uint32_t snap_length; /* 0: no limit */
    uint8_t resolution;   /* if_tsresol */
    int64_t offset_s;     /* if_tsoffset: seconds to be added to each time */
};

/* The value of an option: a part of the bytes searched. NULL if the option is
   not there. */
struct record_text {
    const unsigned char *bytes;
    size_t length;
};

/* What an interface block, or the header of a pcap file, says in addition. */
struct record_description {
    uint32_t link_type; /* LINKTYPE_ */
    struct record_interface interface;
    struct record_text name, description, filter;
};

/* What a block of statistics says. */
struct record_statistics {
    uint32_t interface; /* its number in the whole recording */
    bool has_received, has_dropped;
    uint64_t received, dropped;
};

/* Why find_records() has stopped. */
enum find_result {
    /* There is no room for more records, or `at` has reached `stop_at`. */
    FIND_FULL,
    /* `wanted` bytes are needed from `at` on, which may be more than there are
       if the file is cut. If `at` is beyond `size`, the bytes up to there are
       to be skipped: they belong to a block that began `behind` bytes
       before. */
    FIND_MORE,
    /* There is a new interface, in `description`. The caller adds it to
       `interfaces`, as the last. */
    FIND_INTERFACE,
    /* There are statistics, in `statistics`. */
    FIND_STATISTICS,
    /* The file is damaged, or is not a recording, `behind` bytes before `at`:
       see `reason`. */
    FIND_FAULT
};

enum record_format {
    FORMAT_UNKNOWN, /* the beginning has not been read yet */
    FORMAT_PCAP,
    FORMAT_PCAPNG
};

/* Interfaces of a recording. */
#define MOST_INTERFACES 65536

/* The bytes of a block that is needed in one piece: 16 MiB, as in libpcap
   (sf-pcapng.c) and Wireshark. */
#define MOST_BLOCK (16 << 20)

/* The bytes of a packet in a pcap file, unless its header says more: as in
   libpcap (pcap-common.c:max_snaplen_for_dlt()). */
#define MOST_PACKET 262144

/* The state of find_records(). All zero at the beginning of a file. The
   caller's; nobody else uses it. */
struct finder {
    /* What the caller sets for each call: the bytes to search, from `at` on. */
    const unsigned char *bytes;
    size_t size;
    size_t at;
    size_t stop_at;
    struct record *records;
    size_t room;
    size_t count; /* of the records that are there already */
    const struct record_interface *interfaces;

    /* Results, besides `at` and `count`. */
    size_t wanted;
    size_t behind;  /* bytes of a block before `at`; the end is to be read */
    uint64_t drops; /* the sum of all drop counts of packets */
    struct record_description description;
    struct record_statistics statistics;
    char reason[120];

    /* Kept from call to call. */
    enum record_format format;
    bool swapped;             /* numbers have the other byte order */
    bool nanoseconds;         /* of pcap: its fractions of a second */
    bool has_interface;       /* of pcap: it was returned */
    uint32_t most_packet;     /* of pcap */
    uint32_t skipped_length;  /* of the block that is skipped, or 0 */
    uint32_t interface_count; /* of all sections */
    uint32_t first_interface; /* of this section */
};

/* Finds records from `at` on, and sets `at` to where the next call goes on. */
enum find_result find_records(struct finder *f);

/* Converts a time in units of if_tsresol to nanoseconds since the epoch. A time
   that does not fit becomes the largest or the smallest that does. */
int64_t time_of(const struct record_interface *i, uint64_t units);

/* ---- Writing ------------------------------------------------------------ */

/* What is written of a packet, besides its bytes. */
struct record_header {
    int64_t time_ns;
    uint32_t length; /* of the bytes written */
    uint32_t wire_length;
    uint32_t interface;
    uint32_t flags;   /* epb_flags; 0: the option is left out */
    uint64_t dropped; /* epb_dropcount; 0: the option is left out */
};

/* The most bytes of each. */
#define RECORD_HEAD 28
#define RECORD_TAIL 32

/* Write what is before a packet, and what is behind it. Times are in
   nanoseconds, numbers in the byte order of this machine. Each returns how many
   bytes it has written. */
size_t write_record_head(enum record_format format,
                         const struct record_header *h, unsigned char *to);
size_t write_record_tail(enum record_format format,
                         const struct record_header *h, unsigned char *to);

/* Returns the value of epb_flags for a packet of a type (PACKET_HOST ...). */
uint32_t direction_of(uint8_t packet_type);

#endif
