"""Why a layer takes the time it takes, and what would save some: in sentences whose every number is measured."""
