"""What a run would do and cost, without sending anything."""

from batchvision.plan.bodies import shortened
from batchvision.plan.counting import CountedRequest, RequestReader, standing_of
from batchvision.plan.planning import Plan, plan

__all__ = ["CountedRequest", "Plan", "RequestReader", "plan", "shortened", "standing_of"]
