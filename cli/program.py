"""`tilescore compile` and `tilescore simulate`: program files."""

import argparse
import json

from ..compiler.layers import LAYER_KINDS
from ..compiler.listing import listing
from ..compiler.report import check_description, phase_table, table
from ..compiler.schedule import to_text
from ..compiler.store import ROUTED_SEGMENT, embed_expected, expected_of
from ..rtl.spec.errors import ProgramError, WorkloadError
from ..sim.energy import load_table
from ..sim.legality.verifier import verify
from ..sim.program import Program
from .files import check_targets, named_errors, write_text
from .ignored import check_layer_options
from .layer import build, report
from .tiles import tile_of


def compile_(arguments: argparse.Namespace) -> int:
    """Write the program file and, if asked for, its listing."""
    if arguments.model is None or arguments.layer is None:
        raise WorkloadError("compile needs --model (see `tilescore models`) and --layer "
                            f"({', '.join(LAYER_KINDS)})")
    check_layer_options(arguments, (arguments.layer,), not arguments.no_data)
    config = tile_of(arguments)
    outputs = (arguments.output, arguments.listing, arguments.schedule_out)
    check_targets([path for path in outputs if path is not None])
    built = build(arguments, arguments.layer, not arguments.no_data, config)
    compiled, program = built.layer, built.layer.program
    if compiled.expected is not None:
        program = embed_expected(program, compiled.expected)
    if compiled.expected_routed is not None and compiled.flipped:
        program = embed_expected(program, compiled.expected_routed, ROUTED_SEGMENT)
    with named_errors(arguments.output):
        program.save(arguments.output)
    if arguments.listing:
        write_text(arguments.listing, listing(program))
    if arguments.schedule_out:
        write_text(arguments.schedule_out, to_text(compiled.schedule))
    print(f"{arguments.output}: {len(program.instructions)} instructions for tile {config.name}, "
          f"{program.dram_bytes:,} bytes of DRAM, {built.seconds:.2f} s")
    return 0


def simulate(arguments: argparse.Namespace) -> int:
    """Report on a program file."""
    energy = load_table(arguments.energy)
    program = Program.load(arguments.program)
    try:
        check_description(program)
        if not program.meta.get("data", True) and arguments.level != ("timing",):
            raise ProgramError("compiled with --no-data; allowed: --level timing")
        verify(program)
        expected = expected_of(program)
        routed = expected if program.meta.get("flipped_tokens") == 0 else expected_of(program, ROUTED_SEGMENT)
    except ProgramError as error:
        raise ProgramError(f"program file {arguments.program}: {error}") from None
    reported = report(program, energy, expected=expected, expected_routed=routed, compile_s=0.0,
                         levels=arguments.level, command=arguments.words)
    print(json.dumps(reported, indent=2) if arguments.json else f"{table([reported])}\n\n{phase_table(reported)}")
    return 0
