"""What a packaged folder holds: the live version whole, in a project that answers as that version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

