/* A disk on the network: an ATA-over-Ethernet initiator (AoE specification, revision 11).
   A frame carries the registers of one ATA command and at most two sectors, so a request of the block layer is up to
   four commands. Each has a tag, which comes back with its answer. A command that stays without one is sent again, and
   again after twice the time; the target may then have done it twice, which does no harm.
   Simplified: one target, whichever answers first; waiting is counted in looks, as everywhere here. */
#include "../net/layers.h"
#include "arch.h"
#include "disk.h"
#include "string.h"

struct aoe {
    u8 version_flags; /* upper half: version */
    u8 error;
    u16 shelf;
    u8 slot;
    u8 command;
    u32 tag;
} __attribute__((packed));
#define VERSION (1u << 4)
#define RESPONSE 0x08
#define FAILED 0x04
#define EVERY_SHELF 0xFFFF
#define EVERY_SLOT 0xFF

enum command { ATA, CONFIGURE };

struct ata {
    u8 flags, error_feature, count, command_status;
    u8 address[6];
    u16 reserved;
    u8 data[];
} __attribute__((packed));
#define LONG_ADDRESS 0x40
#define WITH_DATA 0x01 /* data go to the disk */
#define STATUS_ERROR 0x01
enum ata_command { READ_SECTORS = 0x24, WRITE_SECTORS = 0x34, FLUSH_CACHE = 0xEA, IDENTIFY = 0xEC };

struct settings {
    u16 buffers, firmware; /* so many commands wait at the target; more are lost */
    u8 sectors;            /* that it takes at once */
    u8 version_wish;       /* 0: nothing is changed */
    u16 length;
} __attribute__((packed));

#define HEADERS (sizeof(struct ethernet) + sizeof(struct aoe))
#define DEPTH 8u
#define PARTS 4u
#define PART_SECTORS 2u    /* what a frame of 1514 bytes holds */
#define ROUND 64ul         /* looks between two rounds, in which it sees to what is late */
#define PATIENCE 200u      /* rounds before the first repetition: 1 ms, or more */
#define DISCOVERY 10000ul  /* looks for an answer to the first question, which is asked TRIES times */
#define TRIES 5

/* A command that is under way. Tag: its place in `parts`, and above that a count that makes old answers strangers. */
struct part {
    u32 tag;
    bool open, unsent;
    u32 rounds, patience;
};

/* A request, in parts. */
static struct transfer {
    struct disk_request *request; /* NULL: free */
    i64 result;
    u32 open;
    struct part parts[PARTS];
} transfers[DEPTH];

static struct disk disk;
static char model[41];
static u8 target[ETHERNET_ADDRESS];
static u16 shelf;
static u8 slot;
static u32 tags;
static volatile bool found;
static struct disk_request asking; /* for IDENTIFY */
static u16 identity[256];

static bool send(const u8 *to, enum command command, u32 tag, u64 length, bool more)
{
    struct aoe *aoe = (struct aoe *)(net_frame + sizeof(struct ethernet));
    bool everybody = command == CONFIGURE;
    *aoe = (struct aoe){VERSION, 0, swap16(everybody ? EVERY_SHELF : shelf), everybody ? EVERY_SLOT : slot, (u8)command, tag};
    return ethernet_send(to, TYPE_AOE, sizeof *aoe + length, more);
}

/* --- requests --- */

static enum ata_command code(const struct disk_request *request)
{
    return request == &asking                     ? IDENTIFY
           : request->operation == DISK_READ      ? READ_SECTORS
           : request->operation == DISK_WRITE     ? WRITE_SECTORS
                                                  : FLUSH_CACHE;
}

static u32 part_sectors(const struct disk_request *request, u32 part)
{
    u32 left = request->sectors - part * PART_SECTORS;
    return left < PART_SECTORS ? left : PART_SECTORS;
}

static u8 *part_data(const struct disk_request *request, u32 part)
{
    return request == &asking ? (u8 *)identity : (u8 *)phys_to_virt(request->memory) + part * PART_SECTORS * SECTOR;
}

/* `more`: others follow at once, and the card is told with the last one. If there is no room for that, it is sent when it
   is repeated. */
static void send_part(struct transfer *transfer, u32 number, bool more)
{
    const struct disk_request *request = transfer->request;
    struct part *part = &transfer->parts[number];
    struct ata *ata = (struct ata *)(net_frame + HEADERS);
    enum ata_command command = code(request);
    u64 sector = request->sector + number * PART_SECTORS, length = 0;
    bool moves = command == READ_SECTORS || command == WRITE_SECTORS;
    *ata = (struct ata){.flags = LONG_ADDRESS, .command_status = (u8)command};
    if (moves) {
        ata->count = (u8)part_sectors(request, number);
        for (u32 i = 0; i < sizeof ata->address; i++)
            ata->address[i] = (u8)(sector >> 8 * i);
    }
    if (command == WRITE_SECTORS) {
        ata->flags |= WITH_DATA;
        length = ata->count * SECTOR;
        memcpy(ata->data, part_data(request, number), length);
    }
    part->rounds = 0;
    part->unsent = !send(target, ATA, part->tag, sizeof *ata + length, more);
}

static void aoe_start(struct disk *unused, struct disk_request *request)
{
    (void)unused;
    struct transfer *transfer = transfers;
    while (transfer->request)
        transfer++; /* the block layer gives no more than DEPTH */
    transfer->request = request;
    transfer->result = 0;
    transfer->open = request->sectors ? (request->sectors + PART_SECTORS - 1) / PART_SECTORS : 1;
    for (u32 i = 0; i < transfer->open; i++) {
        u32 place = (u32)(transfer - transfers) * PARTS + i;
        transfer->parts[i] = (struct part){.tag = tags++ * DEPTH * PARTS + place, .open = true, .patience = PATIENCE};
        send_part(transfer, i, i + 1 < transfer->open);
    }
}

static void end(struct transfer *transfer)
{
    struct disk_request *request = transfer->request;
    transfer->request = NULL;
    if (request == &asking)
        request->result = transfer->result;
    else
        disk_done(&disk, request, transfer->result);
}

/* An answer to a command: what was read, or how it failed. */
static void answered(const struct aoe *aoe, const u8 *packet, u64 length)
{
    u32 place = aoe->tag % (DEPTH * PARTS);
    struct transfer *transfer = &transfers[place / PARTS];
    struct part *part = &transfer->parts[place % PARTS];
    const struct ata *ata = (const struct ata *)packet;
    if (!transfer->request || !part->open || part->tag != aoe->tag || length < sizeof *ata)
        return;
    enum ata_command command = code(transfer->request);
    u64 wanted = command == IDENTIFY       ? sizeof identity
                 : command == READ_SECTORS ? part_sectors(transfer->request, place % PARTS) * SECTOR
                                           : 0;
    if ((aoe->version_flags & FAILED) || (ata->command_status & STATUS_ERROR) || length - sizeof *ata < wanted)
        transfer->result = -EIO;
    else if (wanted)
        memcpy(part_data(transfer->request, place % PARTS), ata->data, wanted);
    part->open = false;
    if (--transfer->open == 0)
        end(transfer);
}

static void repeat(void)
{
    for (struct transfer *transfer = transfers; transfer < transfers + DEPTH; transfer++)
        for (u32 i = 0; transfer->request && i < PARTS; i++) {
            struct part *part = &transfer->parts[i];
            if (!part->open)
                continue;
            bool late = ++part->rounds > part->patience;
            if (late)
                part->patience *= 2;
            if (late || part->unsent)
                send_part(transfer, i, false);
        }
}

static void aoe_poll(struct disk *unused)
{
    static u64 looks;
    (void)unused;
    net_poll();
    if (++looks % ROUND == 0)
        repeat();
}

static void aoe_reset(struct disk *unused)
{
    (void)unused;
    for (struct transfer *transfer = transfers; transfer < transfers + DEPTH; transfer++)
        if (transfer->request) {
            for (u32 i = 0; i < PARTS; i++)
                transfer->parts[i].open = false;
            transfer->result = -EIO;
            end(transfer);
        }
}

/* --- who is there --- */

void aoe_receive(const u8 *from, const u8 *packet, u64 length)
{
    const struct aoe *aoe = (const struct aoe *)packet;
    if (length < sizeof *aoe || (aoe->version_flags & 0xF0) != VERSION || !(aoe->version_flags & RESPONSE))
        return;
    packet += sizeof *aoe;
    length -= sizeof *aoe;
    if (aoe->command == CONFIGURE && !found && length >= sizeof(struct settings)) {
        const struct settings *settings = (const struct settings *)packet;
        if (settings->sectors < PART_SECTORS || swap16(settings->buffers) < DEPTH * PARTS)
            return;
        memcpy(target, from, sizeof target);
        shelf = swap16(aoe->shelf);
        slot = aoe->slot;
        found = true;
    } else if (aoe->command == ATA && found) {
        answered(aoe, packet, length);
    }
}

static bool discover(void)
{
    static const u8 everybody[ETHERNET_ADDRESS] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    for (u32 i = 0; i < TRIES && !found; i++) { /* the link may not be up yet */
        *(struct settings *)(net_frame + HEADERS) = (struct settings){0};
        send(everybody, CONFIGURE, 0, sizeof(struct settings), false);
        for (u64 looks = 0; looks < DISCOVERY && !found; looks++) {
            net_poll();
            arch_pause();
        }
    }
    return found;
}

/* Words 27 to 46 of the identity, two characters each, the first one high; spaces at the end. */
static void read_model(void)
{
    u32 length = 0;
    for (u32 i = 0; i < sizeof model - 1; i++) {
        model[i] = (char)(identity[27 + i / 2] >> (i % 2 ? 0 : 8));
        if (model[i] != ' ')
            length = i + 1;
    }
    model[length] = 0;
}

static bool identify(void)
{
    asking.result = DISK_PENDING;
    aoe_start(&disk, &asking);
    return disk_wait(&disk, &asking);
}

/* For the remote disk, where there is a network and a target on it. */
struct disk *aoe_find(enum disk_place place)
{
    if (place != DISK_REMOTE || !net_present())
        return NULL;
    disk.poll = aoe_poll;
    disk.reset = aoe_reset;
    arch_irq_enable();
    bool there = discover() && identify();
    arch_irq_disable();
    if (!there)
        return NULL;
    read_model();
    disk.model = model;
    disk.sectors = identity[100] | (u64)identity[101] << 16 | (u64)identity[102] << 32 | (u64)identity[103] << 48;
    disk.depth = DEPTH;
    disk.start = aoe_start;
    return &disk;
}
