/* NVMe drives (NVM Express specification 1.4): one admin queue pair, one I/O queue pair, MSI-X.
   A request is 64 bytes in a ring in memory and one write to a doorbell; its completion is 16 bytes in another ring,
   whose phase bit says that they are new. The same driver serves a whole drive and a virtual function of one.
   Simplified: the first namespace, sectors of 512 bytes, requests within one page (so PRP 1 is enough). */
#include "arch.h"
#include "console.h"
#include "disk.h"
#include "frames.h"
#include "pci.h"
#include "string.h"

#define CLASS_NVME 0x010802
#define VENDOR_AMAZON 0x1D0F
#define DEVICE_BLOCK_STORE 0x8061

/* Registers. */
#define CAPABILITIES_HIGH 0x04      /* bits 3:0: log2 of the distance of doorbells, in words */
#define CONFIGURATION 0x14
#define ENABLE (6u << 16 | 4u << 20 | 1u) /* entries of 64 and 16 bytes, pages of 4 KiB */
#define STATUS 0x1C
#define STATUS_READY 1u
#define STATUS_FATAL 2u
#define ADMIN_QUEUE_SIZES 0x24
#define ADMIN_SUBMISSION 0x28       /* 64 bits */
#define ADMIN_COMPLETION 0x30
#define DOORBELLS 0x1000            /* tail of submission queue n, then head of completion queue n */
#define REGISTERS_SIZE 0x2000

enum admin_command { CREATE_SUBMISSION = 0x01, CREATE_COMPLETION = 0x05, IDENTIFY = 0x06 };
enum io_command { FLUSH = 0x00, WRITE = 0x01, READ = 0x02 };
#define IDENTIFY_NAMESPACE 0
#define IDENTIFY_CONTROLLER 1
#define IDENTIFY_ACTIVE 2
#define CONTIGUOUS 1u
#define INTERRUPTS 2u

struct command {
    u32 code;          /* opcode, and the identifier in bits 31:16 */
    u32 namespace;
    u64 reserved, metadata;
    u64 prp1, prp2;
    u32 words[6];      /* 10 to 15 */
};

struct completion {
    u32 result, reserved;
    u16 head, queue, id;
    u16 status;        /* bit 0: the phase */
};

#define ENTRIES 64     /* a page of commands */

struct queue {
    u32 number;
    struct command *commands;
    volatile struct completion *completions;
    u64 commands_at, completions_at; /* physical */
    u32 tail, head;
    u16 phase;
};

struct nvme {
    struct disk disk; /* first: a struct disk of ours is a struct nvme */
    const struct pci_function *function;
    u8 *registers;
    u32 doorbell_shift; /* log2 of the distance of doorbells, in bytes */
    u32 namespace;
    struct queue admin, io;
    struct disk_request *requests[ENTRIES]; /* by identifier; NULL: it is free */
    volatile bool interrupted;
    char model[41];
};

static struct nvme drives[DISK_PLACES];

static u32 get(const struct nvme *nvme, u32 offset) { return arch_register_read(nvme->registers + offset); }
static void set(const struct nvme *nvme, u32 offset, u32 value) { arch_register_write(nvme->registers + offset, value); }

static void ring(const struct nvme *nvme, const struct queue *queue, u32 completion, u32 value)
{
    set(nvme, DOORBELLS + ((2 * queue->number + completion) << nvme->doorbell_shift), value);
}

static void put(const struct nvme *nvme, struct queue *queue, const struct command *command)
{
    queue->commands[queue->tail] = *command;
    queue->tail = (queue->tail + 1) % ENTRIES;
    ring(nvme, queue, 0, queue->tail);
}

/* The next new completion; NULL: there is none. The caller says with taken() that he is done with it. */
static const volatile struct completion *next(const struct queue *queue)
{
    const volatile struct completion *completion = &queue->completions[queue->head];
    return (completion->status & 1) == queue->phase ? completion : NULL;
}

static void taken(const struct nvme *nvme, struct queue *queue)
{
    queue->head = (queue->head + 1) % ENTRIES;
    if (queue->head == 0)
        queue->phase ^= 1;
    ring(nvme, queue, 1, queue->head);
}

/* --- start-up: one command at a time, without interrupts --- */

static bool wait_status(const struct nvme *nvme, u32 mask, u32 wanted)
{
    for (u32 looks = 0; looks < 100000; looks++)
        if ((get(nvme, STATUS) & mask) == wanted)
            return true;
    return false;
}

static bool admin(struct nvme *nvme, const struct command *command)
{
    put(nvme, &nvme->admin, command);
    for (u32 looks = 0; looks < 10000000; looks++) {
        const volatile struct completion *completion = next(&nvme->admin);
        if (completion) {
            bool good = completion->status >> 1 == 0;
            taken(nvme, &nvme->admin);
            return good;
        }
    }
    return false;
}

static bool identify(struct nvme *nvme, u32 what, u32 namespace, u64 page)
{
    return admin(nvme, &(struct command){.code = IDENTIFY, .namespace = namespace, .prp1 = page, .words = {what}});
}

static bool new_queue(struct queue *queue, u32 number)
{
    if (!queue->commands_at && (!(queue->commands_at = frame_alloc()) || !(queue->completions_at = frame_alloc())))
        return false;
    queue->number = number;
    queue->commands = phys_to_virt(queue->commands_at);
    queue->completions = phys_to_virt(queue->completions_at);
    memset(phys_to_virt(queue->completions_at), 0, PAGE_SIZE);
    queue->tail = queue->head = 0;
    queue->phase = 1;
    return true;
}

static bool create_io_queue(struct nvme *nvme)
{
    u32 name = nvme->io.number | (ENTRIES - 1) << 16;
    struct command completion = {
        .code = CREATE_COMPLETION, .prp1 = nvme->io.completions_at, .words = {name, CONTIGUOUS | INTERRUPTS}};
    struct command submission = {
        .code = CREATE_SUBMISSION, .prp1 = nvme->io.commands_at, .words = {name, CONTIGUOUS | nvme->io.number << 16}};
    return admin(nvme, &completion) && admin(nvme, &submission);
}

/* From whatever state it is in to one in which it takes requests. */
static bool start(struct nvme *nvme)
{
    set(nvme, CONFIGURATION, 0);
    if (!wait_status(nvme, STATUS_READY, 0) || !new_queue(&nvme->admin, 0) || !new_queue(&nvme->io, 1))
        return false;
    set(nvme, ADMIN_QUEUE_SIZES, (ENTRIES - 1) | (ENTRIES - 1) << 16);
    set(nvme, ADMIN_SUBMISSION, (u32)nvme->admin.commands_at);
    set(nvme, ADMIN_SUBMISSION + 4, (u32)(nvme->admin.commands_at >> 32));
    set(nvme, ADMIN_COMPLETION, (u32)nvme->admin.completions_at);
    set(nvme, ADMIN_COMPLETION + 4, (u32)(nvme->admin.completions_at >> 32));
    set(nvme, CONFIGURATION, ENABLE);
    return wait_status(nvme, STATUS_READY | STATUS_FATAL, STATUS_READY) && create_io_queue(nvme);
}

/* Model and capacity. */
static bool ask(struct nvme *nvme)
{
    u64 page = frame_alloc();
    if (!page)
        return false;
    const u8 *data = phys_to_virt(page);
    bool good = identify(nvme, IDENTIFY_CONTROLLER, 0, page);
    if (good) {
        u32 length = 40;
        memcpy(nvme->model, data + 24, 40);
        while (length && nvme->model[length - 1] == ' ')
            length--;
        nvme->model[length] = 0;
        good = identify(nvme, IDENTIFY_ACTIVE, 0, page) && *(const u32 *)data;
    }
    if (good) {
        nvme->namespace = *(const u32 *)data;
        good = identify(nvme, IDENTIFY_NAMESPACE, nvme->namespace, page);
        nvme->disk.sectors = *(const u64 *)data;
        u32 format = *(const u32 *)(data + 128 + 4 * (data[26] & 0xF));
        good = good && (format >> 16 & 0xFF) == 9; /* sectors of 2**9 bytes */
    }
    frame_release(page);
    return good;
}

/* --- requests --- */

static void nvme_start(struct disk *disk, struct disk_request *request)
{
    static const enum io_command codes[] = {[DISK_READ] = READ, [DISK_WRITE] = WRITE, [DISK_FLUSH] = FLUSH};
    struct nvme *nvme = (struct nvme *)disk;
    u32 id = nvme->io.tail; /* there are fewer requests than entries, so this one is free */
    while (nvme->requests[id])
        id = (id + 1) % ENTRIES;
    nvme->requests[id] = request;
    struct command command = {.code = codes[request->operation] | id << 16, .namespace = nvme->namespace};
    if (request->operation != DISK_FLUSH) {
        command.prp1 = request->memory;
        command.words[0] = (u32)request->sector;
        command.words[1] = (u32)(request->sector >> 32);
        command.words[2] = request->sectors - 1;
    }
    put(nvme, &nvme->io, &command);
}

static void nvme_poll(struct disk *disk)
{
    struct nvme *nvme = (struct nvme *)disk;
    if (!nvme->interrupted)
        return;
    nvme->interrupted = false;
    const volatile struct completion *completion;
    while ((completion = next(&nvme->io))) {
        u32 id = completion->id % ENTRIES;
        i64 result = completion->status >> 1 ? -EIO : 0;
        taken(nvme, &nvme->io);
        struct disk_request *request = nvme->requests[id];
        nvme->requests[id] = NULL;
        if (request)
            disk_done(disk, request, result);
    }
}

/* It does not answer: begin afresh, and give up what it had. */
static void nvme_reset(struct disk *disk)
{
    struct nvme *nvme = (struct nvme *)disk;
    struct disk_request *lost[ENTRIES];
    memcpy(lost, nvme->requests, sizeof(lost));
    memset(nvme->requests, 0, sizeof(lost));
    nvme->interrupted = false;
    if (!start(nvme))
        kprintf("%s: does not start again\n", nvme->model);
    for (u32 id = 0; id < ENTRIES; id++)
        if (lost[id])
            disk_done(disk, lost[id], -EIO);
}

static void interrupt_local(void) { drives[DISK_LOCAL].interrupted = true; }
static void interrupt_remote(void) { drives[DISK_REMOTE].interrupted = true; }

/* A drive says by its class what it is. Whether its blocks are in the machine says only the provider's name for it. */
static const struct pci_function *find_card(enum disk_place place)
{
    const struct pci_function *card;
    for (u32 n = 0; (card = pci_function(n)); n++) {
        bool remote = card->vendor == VENDOR_AMAZON && card->id == DEVICE_BLOCK_STORE;
        if (card->class == CLASS_NVME && remote == (place == DISK_REMOTE))
            return card;
    }
    return NULL;
}

struct disk *nvme_find(enum disk_place place)
{
    static void (*const interrupts[DISK_PLACES])(void) = {interrupt_local, interrupt_remote};
    struct nvme *nvme = &drives[place];
    nvme->function = find_card(place);
    if (!nvme->function)
        return NULL;
    pci_enable(nvme->function);
    nvme->registers = arch_map_device(pci_bar(nvme->function, 0), REGISTERS_SIZE);
    nvme->doorbell_shift = 2 + (get(nvme, CAPABILITIES_HIGH) & 0xF);
    if (!start(nvme) || !ask(nvme))
        return NULL;
    u32 data = arch_message_connect(interrupts[place]);
    if (!pci_message_enable(nvme->function, 0, arch_message_address(), data))
        return NULL;
    nvme->disk.model = nvme->model;
    nvme->disk.depth = 32;
    nvme->disk.start = nvme_start;
    nvme->disk.poll = nvme_poll;
    nvme->disk.reset = nvme_reset;
    return &nvme->disk;
}
